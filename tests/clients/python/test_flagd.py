"""flagd's OpenFeature provider, in both its modes, against a server that it reads flags from."""

import pytest
from openfeature import api
from openfeature.exception import ProviderFatalError, ProviderNotReadyError
from openfeature.provider import ProviderStatus

from client import Client
from reading import MODES, Application, flagd, reading, until
from server import Server
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import toggle_service_pb2 as toggle
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_DISABLED, FEATURE_FLAG_STATUS_ENABLED

# What the provider sees does not depend on the database.
pytestmark = pytest.mark.parametrize("server", ["sqlite"], indirect=True)


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def mode(request):
    return request.param


@pytest.fixture
def application(server, flag, mode, reader_token):
    with reading(flagd(server.address, mode, reader_token)) as application:
        yield application


@pytest.mark.parametrize(("kind", "default"), [("string", "none"), ("integer", 7), ("object", {"none": True})])
def test_a_toggle_read_as_something_else_has_the_callers_default(application, flag, kind, default):
    details = getattr(application.client, f"get_{kind}_details")(flag.key, default)
    assert (details.value, details.error_code) == (default, "TYPE_MISMATCH")


def test_a_flip_is_told_and_seen(admin, application, flag):
    for expected in (True, False, True):
        # Read before, so that a cache holds it.
        assert application.value(flag.key) is not expected
        flip = toggle.ToggleFeatureFlagRequest(id=flag.id)
        application.is_told(flag.key, lambda: admin.toggle.ToggleFeatureFlag(flip))
        assert application.value(flag.key) is expected


def test_archiving_and_unarchiving_is_told_and_seen(admin, application, flag):
    assert application.value(flag.key) is False
    archive = toggle.ArchiveFeatureFlagRequest(id=flag.id)
    application.is_told(flag.key, lambda: admin.toggle.ArchiveFeatureFlag(archive))
    assert application.misses(flag.key)

    unarchive = toggle.UnarchiveFeatureFlagRequest(id=flag.id)
    application.is_told(flag.key, lambda: admin.toggle.UnarchiveFeatureFlag(unarchive))
    assert application.value(flag.key) is False


def test_a_new_flag_is_told_and_seen(admin, application, fresh_key):
    key = fresh_key()
    assert application.misses(key)
    create = toggle.CreateFeatureFlagRequest(key=key, name="New", status=FEATURE_FLAG_STATUS_ENABLED)
    application.is_told(key, lambda: admin.toggle.CreateFeatureFlag(create))
    assert application.value(key) is True


def test_after_a_thousand_flips_every_value_is_the_servers(admin, application, fresh_key):
    keys = [fresh_key("burst") for _ in range(20)]
    for key in keys:
        admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key=key, name=key))
    for key in keys:
        until(lambda: not application.misses(key), f"the flag {key}")

    statuses = [FEATURE_FLAG_STATUS_ENABLED, FEATURE_FLAG_STATUS_DISABLED]
    flips = 0
    for turn in range(50):
        # Half of them end on, half of them off.
        items = [toggle.BatchSetItem(key=key, status=statuses[(turn + n) % 2]) for n, key in enumerate(keys)]
        results = admin.toggle.BatchSetFeatureFlags(toggle.BatchSetFeatureFlagsRequest(items=items)).results
        flips += sum(result.changed for result in results)
    assert flips == 50 * 20 - 10

    expected = {result.key: result.status == FEATURE_FLAG_STATUS_ENABLED for result in results}
    assert sorted(expected.values()) == [False] * 10 + [True] * 10
    until(lambda: {key: application.value(key) for key in keys} == expected, "the last of the flips")


def refused(provider, flag, error):
    """The provider does not become ready, and gives defaults with an error."""
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


def test_without_a_token_the_provider_does_not_become_ready(server, flag, mode):
    refused(flagd(server.address, mode, None, deadline_ms=500), flag, ProviderNotReadyError)


def test_a_provider_told_to_gives_up_when_unauthenticated(server, flag, mode):
    provider = flagd(server.address, mode, None, fatal_status_codes=["UNAUTHENTICATED"])
    refused(provider, flag, ProviderFatalError)


def test_a_token_without_the_permission_is_refused(server, admin, flag, mode, fresh_key):
    create = access.CreateUserRequest(email=f"{fresh_key()}@example.com", permissions=["view_audit_logs"])
    user = admin.access.CreateUser(create).user
    token = admin.access.CreateToken(access.CreateTokenRequest(user_id=user.id, name="audit")).secret
    provider = flagd(server.address, mode, token, fatal_status_codes=["PERMISSION_DENIED"])
    refused(provider, flag, ProviderFatalError)


def test_with_the_setting_no_token_is_needed(server, mode, tmp_path):
    anybody = {"TOGGLED_ANONYMOUS_FLAGD_READS": "true"}
    with Server(tmp_path, "serve", "--listen", "127.0.0.1:0", environment=anybody) as server:
        with Client(server.address, server.admin_token()) as admin:
            create = toggle.CreateFeatureFlagRequest(key="open", name="Open", status=FEATURE_FLAG_STATUS_ENABLED)
            admin.toggle.CreateFeatureFlag(create)
            with reading(flagd(server.address, mode, None)) as application:
                assert application.value("open") is True
                flip = toggle.ToggleFeatureFlagRequest(key="open")
                application.is_told("open", lambda: admin.toggle.ToggleFeatureFlag(flip))
                assert application.value("open") is False
