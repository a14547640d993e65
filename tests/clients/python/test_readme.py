"""Runs README's commands and programs unchanged."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest

from network import private_network
from paths import BINARY, README, ROOT, TOOLS
from server import Server
from shell import shell


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The code blocks of a language under a heading."""
    text = README.read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"README has no section '{heading}'"
    return re.findall(rf"^```{language}\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)


@pytest.fixture
def network():
    """A network in which README's address, the default, is free."""
    with private_network("127.0.0.1", 50051) as network:
        yield network


@pytest.fixture
def serve(tmp_path, network):
    """Starts a server as README does: with defaults, except for the given settings."""

    @contextmanager
    def serve(**settings):
        with Server(tmp_path, environment=settings, network=network) as server:
            assert server.address == "127.0.0.1:50051"
            yield server

    return serve


@pytest.fixture
def run(tmp_path, network):
    """Runs shell commands in the server's folder and network."""
    return lambda text: shell(text, tmp_path, network)


def test_first_session_commands_work(serve, run):
    (session,) = blocks("A first session")
    with serve():
        output = run(session)

    assert "toggled.v1.ToggleService" in output
    assert re.search(r'"status":\s*"FEATURE_FLAG_STATUS_ENABLED"', output), output
    assert re.search(r'"userEmail":\s*"admin@localhost"', output), output
    assert re.search(r'"actionType":\s*"toggle_enabled"', output), output


def test_team_commands_work(serve, run):
    team, lost = blocks("From the first token to a team")
    with serve():
        output = run(team)
        again = run(lost)

    assert '"reason": "the team has names now"' in output, output
    assert re.search(r'"actionType":\s*"token_revoked"', output), output
    assert '"lastUsedAt": null' in output, output
    assert re.search(r"olga@example.com +active", again), again
    assert re.search(r"admin@localhost +deactivated", again), again
    assert re.search(r"^toggled_[0-9A-Za-z]{49}$", again, re.MULTILINE), again


def test_command_line_examples_work(serve, run):
    (session,) = blocks("From the command line")
    with serve():
        output = run(session)

    assert re.search(r"^checkout +enabled +yes +4$", output, re.MULTILINE), output
    assert re.search(r"^search +disabled +search ", output, re.MULTILINE), output
    assert output.endswith(
        "\nenabled\n3 admin@localhost a place to start\n4 admin@localhost launch day\n"
        "6 admin@localhost both or neither\n7 admin@localhost both or neither\n8 admin@localhost it was not the checkout\n"
    ), output


def test_ofrep_example_works(serve, run):
    (command,), (answer,) = blocks("OpenFeature"), blocks("OpenFeature", "json")
    with serve() as server:
        run(CREATE_CHECKOUT)
        output = run(f"TOKEN={server.admin_token()}\n{command}")
    assert output == answer.strip()


# Creates the flag that README reads, enabled.
CREATE_CHECKOUT = 'toggled flag create checkout --name "New checkout" --enabled --token-file toggled-admin.token'

READING = "Reading flags from a service"


def program(language, folder):
    """The command that runs README's program in this language."""
    (text,) = blocks(READING, language)
    if language == "rust":
        # The program is also a package of the workspace, which is compiled before this test.
        assert text == (ROOT / "tests" / "clients" / "rust" / "src" / "main.rs").read_text()
        return [BINARY.parent / "read_flag"]
    if language == "js":
        (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    file = folder / {"python": "read_flag.py", "js": "read_flag.mjs"}[language]
    file.write_text(text)
    return [sys.executable if language == "python" else "node", file]


@pytest.mark.parametrize("language", ["python", "js", "rust"])
def test_example_programs_read_a_flag(tmp_path, network, serve, run, language):
    # The Rust provider cannot send a token.
    settings = {"TOGGLED_ANONYMOUS_FLAGD_READS": "true"} if language == "rust" else {}
    with serve(**settings) as server:
        run(CREATE_CHECKOUT)
        # The provider's default deadline of 0.5 s may be too short on a slow machine.
        environment = {**os.environ, "TOKEN": server.admin_token(), "FLAGD_DEADLINE_MS": "10000"}
        command = network.command(program(language, tmp_path))
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.lower() == "checkout: true\n", ended.stderr
