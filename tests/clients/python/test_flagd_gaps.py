"""flagd's OpenFeature provider after a disconnection during which flags changed."""

from contextlib import ExitStack, contextmanager

import pytest
from openfeature.provider import ProviderStatus

from client import Client
from proxy import Proxy
from applications import MODES, flagd, reading, wait_until
from server import Server
from toggled.v1 import toggle_service_pb2 as toggle


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def mode(request):
    return request.param


# Connections and other servers use ports of 127.0.0.1, so a port of this address stays free while the server is down.
OTHER_LOOPBACK = "127.0.0.2:0"


@contextmanager
def serve(folder, address=OTHER_LOOPBACK):
    """A server on the folder's database, and its administrator."""
    with Server(folder, "serve", "--listen", address) as server:
        with Client(server.address, server.admin_token()) as admin:
            yield server, admin


def create(admin):
    for key in ("flipped", "left", "archived"):
        admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key=key, name=key))


def change(admin):
    admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(key="flipped"))
    admin.toggle.ArchiveFeatureFlag(toggle.ArchiveFeatureFlagRequest(key="archived"))


def fill_cache(application):
    """Reads all flags twice: the second time from the cache, if the mode has one."""
    for _ in range(2):
        assert [application.value(key) for key in ("flipped", "left", "archived")] == [False] * 3


def assert_sees_changes(application):
    wait_until(lambda: application.details("flipped").value, "the flip")
    wait_until(lambda: application.is_archived("archived"), "the archived flag to be disabled")
    assert application.value("flipped") is True
    assert application.value("left") is False


def assert_follows(application, admin):
    """The provider delivers events as before."""
    flip = toggle.ToggleFeatureFlagRequest(key="left")
    wait_until(lambda: application.client.get_provider_status() == ProviderStatus.READY, "the provider to be ready again")
    application.expect_event("left", lambda: admin.toggle.ToggleFeatureFlag(flip))
    wait_until(lambda: application.details("left").value, "the flip after it")


def test_flip_during_server_downtime_is_seen_later(tmp_path, mode):
    with ExitStack() as first:
        server, admin = first.enter_context(serve(tmp_path))
        create(admin)
        with reading(flagd(server.address, mode, server.admin_token())) as application:
            fill_cache(application)
            first.close()
            # A server at another address, which the provider does not know.
            with serve(tmp_path) as (_, admin):
                change(admin)
            with serve(tmp_path, server.address) as (_, admin):
                assert_sees_changes(application)
                assert_follows(application, admin)


def test_flip_during_disconnection_is_seen_later(tmp_path, mode):
    with serve(tmp_path) as (server, admin), Proxy(server.address) as proxy:
        create(admin)
        with reading(flagd(proxy.address, mode, server.admin_token())) as application:
            fill_cache(application)
            proxy.cut()
            change(admin)
            proxy.restore()
            assert_sees_changes(application)
            assert_follows(application, admin)
