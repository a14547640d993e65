"""The first start, and later starts."""

import re
import stat

import pytest

from client import Client, refusal
from paths import BINARY
from server import Server
from shell import shell
from toggled.v1 import access_service_pb2 as access
from toggled.v1 import audit_service_pb2 as audit
from toggled.v1 import toggle_service_pb2 as toggle

ANY_PORT = ("serve", "--listen", "127.0.0.1:0")


def is_command(line):
    return line.startswith(("  export ", "  toggled "))


def test_admin_token_is_only_in_a_private_file(tmp_path):
    with Server(tmp_path, *ANY_PORT) as server:
        token = server.admin_token()
        with Client(server.address, token) as admin:
            caller = admin.access.WhoAmI(access.WhoAmIRequest())
    assert caller.user.email == "admin@localhost"
    assert len(caller.permissions) == 7
    assert stat.S_IMODE((tmp_path / "toggled-admin.token").stat().st_mode) == 0o600
    assert token not in "\n".join(server.stdout)
    assert token not in server.stderr.read_text()


def test_restart_keeps_flags_log_and_token(tmp_path):
    with Server(tmp_path, *ANY_PORT) as server:
        token = server.admin_token()
        with Client(server.address, token) as admin:
            admin.toggle.CreateFeatureFlag(toggle.CreateFeatureFlagRequest(key="kept", name="Kept"))
            flag = admin.toggle.ToggleFeatureFlag(toggle.ToggleFeatureFlagRequest(key="kept")).feature_flag
            entries = admin.audit.ListAuditLogs(audit.ListAuditLogsRequest()).items

    with Server(tmp_path, *ANY_PORT) as server:
        assert server.admin_token() == token
        assert not any(is_command(line) for line in server.stdout)
        with Client(server.address, token) as admin:
            assert admin.toggle.GetFeatureFlag(toggle.GetFeatureFlagRequest(key="kept")).feature_flag == flag
            assert admin.audit.ListAuditLogs(audit.ListAuditLogsRequest()).items == entries


@pytest.mark.parametrize("folder", [".", "a folder"], ids=["here", "elsewhere"])
def test_commands_of_the_first_start_work(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    database = tmp_path / folder / "toggled.db"
    with Server(tmp_path, *ANY_PORT, "--database-url", f"sqlite://{database}") as server:

        def commands():
            return [line for line in server.stdout if is_command(line)]

        # The last one reads who flipped the flag.
        if not any("audit list" in line for line in commands()):
            server.wait_for(lambda line: "audit list" in line)
        output = shell("\n".join(commands()), tmp_path)

    assert any(str(BINARY.parent) in line for line in commands()), "the program is not on the PATH"
    assert re.search(r"^hello +default +enabled +yes", output, re.MULTILINE), output
    assert re.search(r"admin@localhost +toggle_enabled +default +hello +first flip$", output, re.MULTILINE), output


def test_configured_token_is_used_and_not_stored(tmp_path):
    own = "an operator's own, with spaces, 32 characters and more"
    with Server(tmp_path, *ANY_PORT, environment={"TOGGLED_BOOTSTRAP_TOKEN": own}) as server:
        assert not (tmp_path / "toggled-admin.token").exists()
        with Client(server.address, own) as admin:
            assert admin.access.WhoAmI(access.WhoAmIRequest()).user.email == "admin@localhost"
        with Client(server.address, own[:-1]) as anonymous:
            assert refusal(anonymous.access.WhoAmI, access.WhoAmIRequest()).reason == "UNAUTHENTICATED"
