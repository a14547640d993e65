"""What flagd's OpenFeature provider reads after it was cut off, when flags were changed meanwhile."""

from contextlib import ExitStack, contextmanager

import pytest
from openfeature.provider import ProviderStatus

from client import Client
from proxy import Proxy
from reading import MODES, flagd, reading, until
from server import Server
from toggled.v1 import toggle_service_pb2 as toggle


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def mode(request):
    return request.param


# A port of this address is nobody's while no server has it: connections and other servers take theirs from 127.0.0.1.
APART = "127.0.0.2:0"


@contextmanager
def served(folder, address=APART):
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


def fill(application):
    """Reads all flags twice: the second time from the cache, in the mode that has one."""
    for _ in range(2):
        assert [application.value(key) for key in ("flipped", "left", "archived")] == [False] * 3


def sees_the_change(application):
    until(lambda: application.details("flipped").value, "the flip")
    until(lambda: application.misses("archived"), "that the flag is gone")
    assert application.value("flipped") is True
    assert application.value("left") is False


def follows(application, admin):
    """Changes are told as before."""
    flip = toggle.ToggleFeatureFlagRequest(key="left")
    until(lambda: application.client.get_provider_status() == ProviderStatus.READY, "the provider's return")
    application.is_told("left", lambda: admin.toggle.ToggleFeatureFlag(flip))
    until(lambda: application.details("left").value, "the flip after it")


def test_a_flip_while_the_server_was_away_is_seen_when_it_is_back(tmp_path, mode):
    with ExitStack() as first:
        server, admin = first.enter_context(served(tmp_path))
        create(admin)
        with reading(flagd(server.address, mode, server.admin_token())) as application:
            fill(application)
            first.close()
            # Elsewhere, where the provider does not look.
            with served(tmp_path) as (_, admin):
                change(admin)
            with served(tmp_path, server.address) as (_, admin):
                sees_the_change(application)
                follows(application, admin)


def test_a_flip_while_the_connection_was_cut_is_seen_when_it_is_back(tmp_path, mode):
    with served(tmp_path) as (server, admin), Proxy(server.address) as proxy:
        create(admin)
        with reading(flagd(proxy.address, mode, server.admin_token())) as application:
            fill(application)
            proxy.cut()
            change(admin)
            proxy.restore()
            sees_the_change(application)
            follows(application, admin)
