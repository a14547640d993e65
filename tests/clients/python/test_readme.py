"""README's commands and programs, executed as they stand."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest

from network import private_network
from places import BINARY, README, ROOT, TOOLS
from server import Server
from shell import shell


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The blocks in a language under a heading: shell commands, or a program."""
    text = README.read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"README has no section '{heading}'"
    return re.findall(rf"^```{language}\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


@pytest.fixture
def network():
    """A network where README's address, the default, is free."""
    with private_network("127.0.0.1", 50051) as network:
        yield network


@pytest.fixture
def serve(tmp_path, network):
    """Starts a server as README starts it: with all its defaults but for these settings."""

    @contextmanager
    def serve(**settings):
        with Server(tmp_path, environment=settings, network=network) as server:
            assert server.address == "127.0.0.1:50051"
            yield server

    return serve


@pytest.fixture
def run(tmp_path, network):
    """Runs shell text where the server is."""
    return lambda text: shell(text, tmp_path, network)


def test_the_first_session_works_as_it_stands(serve, run):
    (session,) = blocks("A first session")
    with serve():
        said = run(session)

    assert "toggled.v1.ToggleService" in said
    assert re.search(r'"status":\s*"FEATURE_FLAG_STATUS_ENABLED"', said), said
    assert re.search(r'"userEmail":\s*"admin@localhost"', said), said
    assert re.search(r'"actionType":\s*"toggle_enabled"', said), said


def test_a_team_is_made_as_it_stands(serve, run):
    team, lost = blocks("From the first token to a team")
    with serve():
        said = run(team)
        again = run(lost)

    assert '"reason": "the team has names now"' in said, said
    assert re.search(r'"actionType":\s*"token_revoked"', said), said
    assert '"lastUsedAt": null' in said, said
    assert re.search(r"olga@example.com +active", again), again
    assert re.search(r"admin@localhost +deactivated", again), again
    assert re.search(r"^toggled_[0-9A-Za-z]{49}$", again, re.MULTILINE), again


def test_the_command_line_works_as_it_stands(serve, run):
    (session,) = blocks("From the command line")
    with serve():
        said = run(session)

    assert re.search(r"^checkout +enabled +yes +4$", said, re.MULTILINE), said
    assert re.search(r"^search +disabled +search ", said, re.MULTILINE), said
    assert said.endswith(
        "\nenabled\n3 admin@localhost a place to start\n4 admin@localhost launch day\n"
        "6 admin@localhost both or neither\n7 admin@localhost both or neither\n8 admin@localhost it was not the checkout\n"
    ), said


def test_a_flag_is_read_without_grpc_as_it_stands(serve, run):
    (command,), (answer,) = blocks("OpenFeature"), blocks("OpenFeature", "json")
    with serve() as server:
        run(CREATE_CHECKOUT)
        said = run(f"TOKEN={server.admin_token()}\n{command}")
    assert said == answer.strip()


# The flag that README reads, on.
CREATE_CHECKOUT = 'toggled flag create checkout --name "New checkout" --enabled --token-file toggled-admin.token'

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
def test_a_service_reads_a_flag_as_it_stands(tmp_path, network, serve, run, language):
    # Rust's provider can send no token.
    settings = {"TOGGLED_ANONYMOUS_FLAGD_READS": "true"} if language == "rust" else {}
    with serve(**settings) as server:
        run(CREATE_CHECKOUT)
        # A slow machine may take longer to connect than the half second that the provider allows by itself.
        environment = {**os.environ, "TOKEN": server.admin_token(), "FLAGD_DEADLINE_MS": "10000"}
        command = network.command(program(language, tmp_path))
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.lower() == "checkout: true\n", ended.stderr
