"""README's first session, executed as it stands."""

import re
import socket
from contextlib import contextmanager

import pytest

from places import README
from server import Server
from shell import shell


def blocks(heading: str) -> list[str]:
    """The blocks of shell commands under a heading."""
    text = README.read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"README has no section '{heading}'"
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


@contextmanager
def served(folder):
    """A server as README starts it: with all its defaults."""
    with socket.socket() as probe:
        # As the server binds: a port that a connection has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 50051))
        except OSError as error:
            pytest.fail(f"README's session needs 127.0.0.1:50051, the default port: {error}; stop what listens there")
    with Server(folder) as server:
        assert server.address == "127.0.0.1:50051"
        yield server


def test_the_first_session_works_as_it_stands(tmp_path):
    (session,) = blocks("A first session")
    with served(tmp_path):
        said = shell(session, tmp_path)

    assert "toggled.v1.ToggleService" in said
    assert re.search(r'"status":\s*"FEATURE_FLAG_STATUS_ENABLED"', said), said
    assert re.search(r'"userEmail":\s*"admin@localhost"', said), said
    assert re.search(r'"actionType":\s*"toggle_enabled"', said), said


def test_a_team_is_made_as_it_stands(tmp_path):
    team, lost = blocks("From the first token to a team")
    with served(tmp_path):
        said = shell(team, tmp_path)
        again = shell(lost, tmp_path)

    assert '"reason": "the team has names now"' in said, said
    assert re.search(r'"actionType":\s*"token_revoked"', said), said
    assert '"lastUsedAt": null' in said, said
    assert re.search(r"olga@example.com +active", again), again
    assert re.search(r"admin@localhost +deactivated", again), again
    assert re.search(r"^toggled_[0-9A-Za-z]{49}$", again, re.MULTILINE), again
