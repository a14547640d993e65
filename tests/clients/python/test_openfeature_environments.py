"""OpenFeature's providers with selectors: each reads one environment, and nothing of the other."""

from contextlib import ExitStack

import pytest
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.exception import ProviderFatalError

from applications import MODES, flagd, reading, wait_until
from client import Client
from server import Server
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import environment_service_pb2 as environments
from toggled.v1 import toggle_service_pb2 as toggle
from toggled.v1.environment_service_pb2_grpc import EnvironmentServiceStub


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of its own: with several environments, changes must name one."""
    with Server(tmp_path_factory.mktemp("environments"), "serve", "--listen", "127.0.0.1:0") as server:
        yield server


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def mode(request):
    return request.param


@pytest.fixture
def staging(admin, fresh_key) -> str:
    """A new environment."""
    key = fresh_key("staging")
    create_environment(admin, key)
    return key


def create_environment(admin, key):
    request = environments.CreateEnvironmentRequest(key=key, name=key)
    EnvironmentServiceStub(admin.channel).CreateEnvironment(request)


def create(admin, environment, key):
    admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(environment=environment, key=key, name=key))


def flip(admin, environment, key):
    admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(environment=environment, key=key))


def account(admin, fresh_key, *permissions):
    """A new user, and a token for them."""
    request = access.CreateUserRequest(email=f"{fresh_key('service')}@example.com", permissions=permissions)
    user = admin.access.CreateUser(request).user
    return user, admin.access.CreateToken(access.CreateTokenRequest(user_id=user.id, name="flags")).secret


def ofrep(address, token, selector=None):
    headers = {"authorization": f"Bearer {token}"} | ({"Flagd-Selector": selector} if selector else {})
    return OFREPProvider(f"http://{address}", headers_factory=lambda: headers)


@pytest.mark.parametrize("form", ["{}", "flagSetId={}"])
def test_flagd_provider_reads_the_selected_environment(server, admin, mode, form, staging, fresh_key, reader_token):
    key, alone = fresh_key(), fresh_key("alone")
    for environment in ("default", staging):
        create(admin, environment, key)
    create(admin, staging, alone)
    with ExitStack() as stack:
        own = stack.enter_context(reading(flagd(server.address, mode, reader_token)))
        selected = flagd(server.address, mode, reader_token, selector=form.format(staging))
        selected = stack.enter_context(reading(selected))
        assert own.is_missing(alone) and selected.value(alone) is False
        values = {"default": False, staging: False}
        for environment in (staging, "default", staging, staging, "default"):
            application = own if environment == "default" else selected
            application.expect_event(key, lambda: flip(admin, environment, key))
            values[environment] = not values[environment]
            wait_until(lambda: application.value(key) is values[environment], "the flip")
            assert (own.value(key), selected.value(key)) == (values["default"], values[staging])


def test_ofrep_provider_reads_the_selected_environment(server, admin, staging, fresh_key, reader_token):
    key = fresh_key()
    for environment in ("default", staging):
        create(admin, environment, key)
    with reading(ofrep(server.address, reader_token)) as own:
        with reading(ofrep(server.address, reader_token, f"flagSetId={staging}")) as selected:
            flip(admin, staging, key)
            assert (own.value(key), selected.value(key)) == (False, True)
            flip(admin, "default", key)
            flip(admin, staging, key)
            assert (own.value(key), selected.value(key)) == (True, False)


def test_in_process_provider_keeps_values_of_a_lost_permission(server, admin, staging, fresh_key, reader_token):
    key = fresh_key()
    create(admin, staging, key)
    flip(admin, staging, key)
    user, token = account(admin, fresh_key, f"view_feature_flags@{staging}")
    with ExitStack() as stack:
        lost, other = (
            stack.enter_context(reading(flagd(server.address, ResolverType.IN_PROCESS, token, selector=staging)))
            for token in (token, reader_token)
        )
        assert (lost.value(key), other.value(key)) == (True, True)
        events = len(lost.changes)
        admin.access.UpdateUser(access.UpdateUserRequest(id=user.id, permissions=["view_feature_flags@default"]))
        other.expect_event(key, lambda: flip(admin, staging, key))
        assert (lost.value(key), other.value(key)) == (True, False)
        assert len(lost.changes) == events


@pytest.mark.parametrize("environment", ["default", "unknown"])
def test_other_environments_are_refused_alike(server, admin, mode, staging, fresh_key, environment):
    _, token = account(admin, fresh_key, f"view_feature_flags@{staging}")
    provider = flagd(server.address, mode, token, selector=environment, fatal_status_codes=["PERMISSION_DENIED"])
    with pytest.raises(ProviderFatalError), reading(provider):
        pass
    with reading(ofrep(server.address, token, environment)) as application:
        details = application.details("any", True)
        assert (details.value, details.error_code) == (True, "GENERAL")


def test_anonymous_callers_read_open_environments(server, mode, tmp_path):
    setting = {"TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS": "staging,default"}
    with Server(tmp_path, "serve", "--listen", "127.0.0.1:0", environment=setting) as server:
        with Client(server.address, server.admin_token()) as admin, ExitStack() as stack:
            for environment in ("staging", "production"):
                create_environment(admin, environment)
                create(admin, environment, "shared")
            flip(admin, "staging", "shared")
            create(admin, "default", "shared")
            own = stack.enter_context(reading(flagd(server.address, mode, None)))
            default = stack.enter_context(reading(flagd(server.address, mode, None, selector="default")))
            assert (own.value("shared"), default.value("shared")) == (True, False)
            closed = flagd(
                server.address, mode, None, selector="production", fatal_status_codes=["UNAUTHENTICATED"]
            )
            with pytest.raises(ProviderFatalError), reading(closed):
                pass
