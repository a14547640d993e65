"""The cases of flagd's own test suite (flagd-testbed) that booleans have, in each mode: as docs/clients.md says."""

import subprocess

import pytest
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.provider.ofrep import OFREPProvider

from applications import flagd, reading, wait_until
from client import Client
from paths import BINARY
from server import Server
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import environment_service_pb2 as environments
from toggled.v1 import toggle_service_pb2 as toggle
from toggled.v1.environment_service_pb2_grpc import EnvironmentServiceStub
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_ENABLED

ENVIRONMENTS = ("default", "staging")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """In each environment the flags `on` and `off`. `archived` was on, and is active in `staging`."""
    with Server(tmp_path_factory.mktemp("modes"), "serve", "--listen", "127.0.0.1:0") as server:
        with Client(server.address, server.admin_token()) as admin:
            create = environments.CreateEnvironmentRequest(key="staging", name="Staging")
            EnvironmentServiceStub(admin.channel).CreateEnvironment(create)
            for environment in ENVIRONMENTS:
                for key in ("on", "off", "archived", "changing"):
                    status = {} if key == "off" else {"status": FEATURE_FLAG_STATUS_ENABLED}
                    create = toggle.CreateFeatureFlagRequest(environment=environment, key=key, name=key, **status)
                    admin.toggle.CreateFeatureFlag(create)
            admin.toggle.ArchiveFeatureFlag(toggle.ArchiveFeatureFlagRequest(environment="default", key="archived"))
        yield server


@pytest.fixture(scope="module")
def token(server):
    with Client(server.address, server.admin_token()) as admin:
        create = access.CreateUserRequest(email="reader@example.com", permissions=["view_feature_flags"])
        user = admin.access.CreateUser(create).user
        return admin.access.CreateToken(access.CreateTokenRequest(user_id=user.id, name="flags")).secret


def export(server, environment, path):
    """Writes the flags of an environment as a file of flagd."""
    arguments = ["flag", "export", "--archived", "--format", "flagd", "--output-file", path, "-e", environment]
    credentials = {"TOGGLED_ADDR": server.address, "TOGGLED_TOKEN": server.admin_token()}
    subprocess.run([BINARY, *arguments], env=credentials, check=True, capture_output=True)


def provider(mode, server, token, environment, folder):
    if mode == "ofrep":
        headers = {"authorization": f"Bearer {token}", "flagd-selector": environment}
        return OFREPProvider(f"http://{server.address}", headers_factory=lambda: headers)
    if mode == "file":
        path = folder / f"{environment}.json"
        export(server, environment, path)
        return FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(path))
    return flagd(server.address, ResolverType(mode), token, selector=environment)


@pytest.fixture(params=["rpc", "in-process", "file", "ofrep"])
def mode(request, monkeypatch):
    # How often files are read.
    monkeypatch.setenv("FLAGD_OFFLINE_POLL_MS", "50")
    return request.param


@pytest.fixture
def application(mode, server, token, tmp_path):
    with reading(provider(mode, server, token, "default", tmp_path)) as application:
        yield application


def test_values_are_static_and_false_is_a_value(application):
    for key, value in (("on", True), ("off", False)):
        details = application.details(key, not value)
        assert (details.value, details.variant, details.reason) == (value, key, "STATIC")
        assert details.error_code is None


def test_archived_flag_is_disabled_and_missing_one_is_an_error(application):
    assert application.is_archived("archived")
    assert application.is_missing("missing")


@pytest.mark.parametrize(("kind", "default"), [("string", "bye"), ("integer", 1), ("float", 0.1), ("object", {})])
def test_archived_flag_is_disabled_as_any_type(application, kind, default):
    details = getattr(application.client, f"get_{kind}_details")("archived", default)
    expected = ("DISABLED", None) if application.knows_disabled else ("ERROR", "GENERAL")
    assert (details.value, details.reason, details.error_code) == (default, *expected)


def test_flag_archived_in_one_environment_is_active_in_another(mode, server, token, application, tmp_path):
    assert application.is_archived("archived")
    with reading(provider(mode, server, token, "staging", tmp_path)) as staging:
        assert staging.value("archived") is True


def test_metadata_names_environment_and_revision(mode, server, token, tmp_path):
    with Client(server.address, server.admin_token()) as admin:
        for environment in ENVIRONMENTS:
            get = toggle.ListFeatureFlagsRequest(environment=environment, include_archived=True)
            version = max(flag.revision for flag in admin.toggle.ListFeatureFlags(get).feature_flags)
            with reading(provider(mode, server, token, environment, tmp_path)) as application:
                # A file has flags alone, and this provider ignores metadata in RPC mode.
                is_known = mode in ("in-process", "ofrep")
                expected = {"flagSetId": environment, "version": str(version)} if is_known else {}
                for key in ("on", "off"):
                    assert application.details(key).flag_metadata == expected


def test_change_is_reported_and_read(mode, server, application, tmp_path):
    with Client(server.address, server.admin_token()) as admin:
        for _ in range(2):
            before = application.value("changing")
            if mode == "rpc":
                # Static values are cached until the server reports a change.
                assert application.details("changing").reason == "CACHED"

            def change():
                admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(environment="default", key="changing"))
                if mode == "file":
                    export(server, "default", tmp_path / "default.json")

            if mode == "ofrep":
                change()
            else:
                application.expect_event("changing", change)
            wait_until(lambda: application.value("changing") is not before, "the change")
