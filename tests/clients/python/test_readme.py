"""README's commands and programs, executed as they stand."""

import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from client import Client
from places import BINARY, README, ROOT, TOOLS
from server import Server
from shell import shell
from toggled.v1.feature_flag_pb2 import FEATURE_FLAG_STATUS_ENABLED
from toggled.v1.toggle_service_pb2 import CreateFeatureFlagRequest


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The blocks in a language under a heading: shell commands, or a program."""
    text = README.read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"README has no section '{heading}'"
    return re.findall(rf"^```{language}\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


@contextmanager
def served(folder, **settings):
    """A server as README starts it: with all its defaults but for these settings."""
    with socket.socket() as probe:
        # As the server binds: a port that a connection has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 50051))
        except OSError as error:
            pytest.fail(f"README's session needs 127.0.0.1:50051, the default port: {error}; stop what listens there")
    with Server(folder, environment=settings) as server:
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


def test_the_command_line_works_as_it_stands(tmp_path):
    (session,) = blocks("From the command line")
    with served(tmp_path):
        said = shell(session, tmp_path)

    assert re.search(r"^checkout +enabled +yes +4$", said, re.MULTILINE), said
    assert re.search(r"^search +disabled +search ", said, re.MULTILINE), said
    assert said.endswith(
        "\nenabled\n3 admin@localhost a place to start\n4 admin@localhost launch day\n"
        "6 admin@localhost both or neither\n7 admin@localhost both or neither\n8 admin@localhost it was not the checkout\n"
    ), said


def test_a_flag_is_read_without_grpc_as_it_stands(tmp_path):
    (command,), (answer,) = blocks("OpenFeature"), blocks("OpenFeature", "json")
    with served(tmp_path) as server:
        create_checkout(server)
        said = shell(f"TOKEN={server.admin_token()}\n{command}", tmp_path)
    assert said == answer.strip()


def create_checkout(server):
    """The flag that README reads, on."""
    with Client(server.address, server.admin_token()) as admin:
        create = CreateFeatureFlagRequest(key="checkout", name="New checkout", status=FEATURE_FLAG_STATUS_ENABLED)
        admin.toggle.CreateFeatureFlag(create)


READING = "Reading flags from a service"


def program(language, folder):
    """The command that runs README's program in this language."""
    (text,) = blocks(READING, language)
    if language == "rust":
        # A test of README cannot compile it: it is also the program of a package, which is compiled before.
        assert text == (ROOT / "tests" / "clients" / "rust" / "src" / "main.rs").read_text()
        return [BINARY.parent / "read_flag"]
    if language == "js":
        (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    file = folder / {"python": "read_flag.py", "js": "read_flag.mjs"}[language]
    file.write_text(text)
    return [sys.executable if language == "python" else "node", file]


@pytest.mark.parametrize("language", ["python", "js", "rust"])
def test_a_service_reads_a_flag_as_it_stands(tmp_path, language):
    command = program(language, tmp_path)
    # Rust's provider can send no token.
    settings = {"TOGGLED_ANONYMOUS_FLAGD_READS": "true"} if language == "rust" else {}
    with served(tmp_path, **settings) as server:
        create_checkout(server)
        # A slow machine may take longer to connect than the half second that the provider allows by itself.
        environment = {**os.environ, "TOKEN": server.admin_token(), "FLAGD_DEADLINE_MS": "10000"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.lower() == "checkout: true\n", ended.stderr
