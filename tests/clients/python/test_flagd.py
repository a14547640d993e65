"""flagd's OpenFeature provider in both its modes, against the real server."""

import pytest
from openfeature import api
from openfeature.exception import ProviderFatalError, ProviderNotReadyError
from openfeature.provider import ProviderStatus

from client import Client
from applications import MODES, Application, flagd, reading, wait_until
from server import Server
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import toggle_service_pb2 as toggle
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_DISABLED, FEATURE_FLAG_STATUS_ENABLED

# The provider's behaviour does not depend on the database.
pytestmark = pytest.mark.parametrize("server", ["sqlite"], indirect=True)


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def mode(request):
    return request.param


@pytest.fixture
def application(server, flag, mode, reader_token):
    with reading(flagd(server.address, mode, reader_token)) as application:
        yield application


@pytest.mark.parametrize(("kind", "default"), [("string", "none"), ("integer", 7), ("object", {"none": True})])
def test_reading_another_type_gives_the_default(application, flag, kind, default):
    details = getattr(application.client, f"get_{kind}_details")(flag.key, default)
    assert (details.value, details.error_code) == (default, "TYPE_MISMATCH")


def test_flip_sends_an_event_and_is_read(admin, application, flag):
    for expected in (True, False, True):
        # Read first, so that the value is cached.
        assert application.value(flag.key) is not expected
        flip = toggle.ToggleFeatureFlagRequest(id=flag.id)
        application.expect_event(flag.key, lambda: admin.toggle.ToggleFeatureFlag(flip))
        assert application.value(flag.key) is expected


def test_archiving_sends_an_event_and_is_read(admin, application, flag):
    assert application.value(flag.key) is False
    archive = toggle.ArchiveFeatureFlagRequest(id=flag.id)
    application.expect_event(flag.key, lambda: admin.toggle.ArchiveFeatureFlag(archive))
    assert application.is_archived(flag.key)

    unarchive = toggle.UnarchiveFeatureFlagRequest(id=flag.id)
    application.expect_event(flag.key, lambda: admin.toggle.UnarchiveFeatureFlag(unarchive))
    assert application.value(flag.key) is False


def test_new_flag_sends_an_event_and_is_read(admin, application, fresh_key):
    key = fresh_key()
    assert application.is_missing(key)
    create = toggle.CreateFeatureFlagRequest(key=key, name="New", status=FEATURE_FLAG_STATUS_ENABLED)
    application.expect_event(key, lambda: admin.toggle.CreateFeatureFlag(create))
    assert application.value(key) is True


def test_values_match_the_server_after_1000_flips(admin, application, fresh_key):
    keys = [fresh_key("burst") for _ in range(20)]
    for key in keys:
        admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key=key, name=key))
    for key in keys:
        wait_until(lambda: not application.is_missing(key), f"the flag {key}")

    statuses = [FEATURE_FLAG_STATUS_ENABLED, FEATURE_FLAG_STATUS_DISABLED]
    flips = 0
    for turn in range(50):
        # Half of the flags end enabled, half disabled.
        items = [toggle.BatchSetItem(key=key, status=statuses[(turn + n) % 2]) for n, key in enumerate(keys)]
        results = admin.toggle.BatchSetFeatureFlags(toggle.BatchSetFeatureFlagsRequest(items=items)).results
        flips += sum(result.changed for result in results)
    assert flips == 50 * 20 - 10

    expected = {result.key: result.status == FEATURE_FLAG_STATUS_ENABLED for result in results}
    assert sorted(expected.values()) == [False] * 10 + [True] * 10
    wait_until(lambda: {key: application.value(key) for key in keys} == expected, "the last of the flips")


def assert_refused(provider, flag, error):
    """The provider does not become ready, and reads return the default and an error."""
    application = Application()
    try:
        with pytest.raises(error):
            api.set_provider_and_wait(provider, application.domain)
        assert application.client.get_provider_status() != ProviderStatus.READY
        details = application.details(flag.key, True)
        assert details.value is True and details.error_code is not None
        assert not application.changes
    finally:
        api.clear_providers()


def test_provider_without_a_token_is_not_ready(server, flag, mode):
    assert_refused(flagd(server.address, mode, None, deadline_ms=500), flag, ProviderNotReadyError)


def test_provider_stops_on_fatal_status(server, flag, mode):
    provider = flagd(server.address, mode, None, fatal_status_codes=["UNAUTHENTICATED"])
    assert_refused(provider, flag, ProviderFatalError)


def test_token_without_permission_is_refused(server, admin, flag, mode, fresh_key):
    create = access.CreateUserRequest(email=f"{fresh_key()}@example.com", permissions=["view_audit_logs"])
    user = admin.access.CreateUser(create).user
    token = admin.access.CreateToken(access.CreateTokenRequest(user_id=user.id, name="audit")).secret
    provider = flagd(server.address, mode, token, fatal_status_codes=["PERMISSION_DENIED"])
    assert_refused(provider, flag, ProviderFatalError)


def test_anonymous_reads_need_no_token(server, mode, tmp_path):
    anonymous_reads = {"TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS": "default"}
    with Server(tmp_path, "serve", "--listen", "127.0.0.1:0", environment=anonymous_reads) as server:
        with Client(server.address, server.admin_token()) as admin:
            create = toggle.CreateFeatureFlagRequest(key="open", name="Open", status=FEATURE_FLAG_STATUS_ENABLED)
            admin.toggle.CreateFeatureFlag(create)
            with reading(flagd(server.address, mode, None)) as application:
                assert application.value("open") is True
                flip = toggle.ToggleFeatureFlagRequest(key="open")
                application.expect_event("open", lambda: admin.toggle.ToggleFeatureFlag(flip))
                assert application.value("open") is False
