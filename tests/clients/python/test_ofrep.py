"""OFREP's OpenFeature provider, which sends one HTTP request per value."""

import pytest

from client import Client
from applications import ofrep, reading
from server import Server
from toggled.v1 import toggle_service_pb2 as toggle

# The provider's behaviour does not depend on the database.
pytestmark = pytest.mark.parametrize("server", ["sqlite"], indirect=True)


@pytest.fixture
def application(server, flag, reader_token):
    with reading(ofrep(server.address, reader_token)) as application:
        yield application


@pytest.mark.parametrize(("kind", "default"), [("string", "none"), ("float", 0.5), ("object", {"none": True})])
def test_reading_another_type_gives_the_default(application, flag, kind, default):
    details = getattr(application.client, f"get_{kind}_details")(flag.key, default)
    assert (details.value, details.error_code) == (default, "TYPE_MISMATCH")


def test_flip_is_in_the_next_answer(admin, application, flag):
    for expected in (True, False, True):
        admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(id=flag.id))
        assert application.value(flag.key) is expected


def refused(address, key, token):
    """Whether a read returns the default and an error."""
    with reading(ofrep(address, token)) as application:
        details = application.details(key, True)
    return (details.value, details.error_code) == (True, "GENERAL")


@pytest.mark.parametrize("token", [None, "toggled_wrong"])
def test_invalid_token_gives_the_default(server, flag, token):
    assert refused(server.address, flag.key, token)


def test_anonymous_flagd_reads_do_not_open_ofrep(server, tmp_path):
    anonymous_reads = {"TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS": "default"}
    with Server(tmp_path, "serve", "--listen", "127.0.0.1:0", environment=anonymous_reads) as server:
        with Client(server.address, server.admin_token()) as admin:
            admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key="closed", name="Closed"))
        assert refused(server.address, "closed", None)
