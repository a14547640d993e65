"""README's first session, executed as it stands."""

import re
import socket

import pytest

from places import README
from server import Server
from shell import shell


def first_session() -> str:
    """The one block of shell commands under that heading."""
    text = README.read_text(encoding="utf-8")
    section = re.search(r"^## A first session\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, "README has no section 'A first session'"
    blocks = re.findall(r"^```sh\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, f"the first session must be one block of sh, not {len(blocks)}"
    return blocks[0]


def test_the_first_session_works_as_it_stands(tmp_path):
    session = first_session()
    with socket.socket() as probe:
        # As the server binds: a port that a connection has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 50051))
        except OSError as error:
            pytest.fail(f"README's session needs 127.0.0.1:50051, the default port: {error}; stop what listens there")

    # No argument: all its defaults, as README starts it.
    with Server(tmp_path) as server:
        assert server.address == "127.0.0.1:50051"
        said = shell(session, tmp_path)

    assert "toggled.v1.ToggleService" in said
    assert re.search(r'"status":\s*"FEATURE_FLAG_STATUS_ENABLED"', said), said
    assert re.search(r'"userEmail":\s*"admin@localhost"', said), said
    assert re.search(r'"actionType":\s*"toggle_enabled"', said), said
