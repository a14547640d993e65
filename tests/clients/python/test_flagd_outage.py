"""What flagd's OpenFeature provider returns while the server is lost, and after its token was revoked: as docs/clients.md says."""

import pytest
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.provider import ProviderStatus

from applications import flagd, reading, wait_until
from client import Client
from server import Server
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import toggle_service_pb2 as toggle
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_ENABLED


@pytest.fixture
def running(tmp_path):
    """A server with an enabled flag, its administrator, and the token of a reader."""
    with Server(tmp_path, "serve", "--listen", "127.0.0.1:0") as server:
        with Client(server.address, server.admin_token()) as admin:
            create = toggle.CreateFeatureFlagRequest(key="checkout", name="A", status=FEATURE_FLAG_STATUS_ENABLED)
            admin.toggle.CreateFeatureFlag(create)
            user = admin.access.CreateUser(
                access.CreateUserRequest(email="reader@example.com", permissions=["view_feature_flags"])
            ).user
            yield server, admin, admin.access.CreateToken(access.CreateTokenRequest(user_id=user.id, name="flags"))


def status(application):
    return application.client.get_provider_status()


def test_in_process_keeps_values_of_lost_server(running):
    server, _, token = running
    with reading(flagd(server.address, ResolverType.IN_PROCESS, token.secret, retry_grace_period=0)) as application:
        assert application.value("checkout") is True
        server.stop()
        wait_until(lambda: status(application) == ProviderStatus.ERROR, "the provider to give up")
        assert application.value("checkout") is True


def test_rpc_returns_default_when_server_is_lost(running):
    server, _, token = running
    options = {"retry_grace_period": 0, "deadline_ms": 500}
    with reading(flagd(server.address, ResolverType.RPC, token.secret, **options)) as application:
        assert application.value("checkout") is True
        server.stop()
        wait_until(lambda: status(application) == ProviderStatus.ERROR, "the provider to give up")
        wait_until(lambda: application.details("checkout").value is False, "the cache to be cleared")
        assert application.details("checkout", True).value is True, "the caller's default"


@pytest.mark.parametrize("fatal", [True, False])
def test_revoked_token_is_an_error_only_if_fatal(running, fatal):
    server, admin, token = running
    options = {"fatal_status_codes": ["UNAUTHENTICATED", "PERMISSION_DENIED"]} if fatal else {}
    with reading(flagd(server.address, ResolverType.IN_PROCESS, token.secret, **options)) as application:
        assert application.value("checkout") is True
        admin.access.RevokeToken(access.RevokeTokenRequest(id=token.token.id))
        admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(key="checkout"))
        if fatal:
            wait_until(lambda: status(application) == ProviderStatus.FATAL, "the provider to fail")
            assert application.details("checkout", False).value is False
            assert application.details("checkout", True).value is True, "the caller's default"
        else:
            refused = lambda: "authentication failed" in server.stderr.read_text()
            wait_until(refused, "the provider to be refused")
            assert status(application) == ProviderStatus.READY
            assert application.value("checkout") is True, "frozen: the flag is off now"
