"""A reader pastes README and then each page of docs/, on one machine, in the order of the table of contents."""

import os
import re
import subprocess

import pytest

import postgres
from machine import Machine
from network import private_network
from pages import Block, block, blocks, pages
from paths import BINARY, ROOT
from server import Server

README = "README.md"

# Blocks that cannot be pasted here, by page and heading, with what tests them instead.
TESTED_ELSEWHERE = {
    ("docs/access.md", "Single sign-on"): "needs an identity provider: tests/it/single_sign_on",
    ("docs/operations.md", "Back up PostgreSQL"): "tests/it/backups.rs runs it",
    ("docs/operations.md", "Restore PostgreSQL"): "tests/it/backups.rs runs it",
    ("docs/operations.md", "Take back an upgrade"): "needs a newer program: tests/it/store",
}

# Languages of blocks that are no commands or programs, or that our tests cannot run.
NOT_PASTED = {"toml", "json", "text", "console", "java", "go", "rust"}

# The service of this page listens on the same address as README's server, and says so.
STOPS_README = ("docs/deployment.md", "systemd")


def is_pasted(one: Block) -> bool:
    return one.language not in NOT_PASTED and (one.page, one.heading) not in TESTED_ELSEWHERE


@pytest.fixture
def machine(tmp_path):
    """A machine with PostgreSQL, on which README's address is free."""
    with private_network("127.0.0.1", 50051) as network:
        with postgres.cluster(network, port=5432, superuser="postgres") as (_, socket):
            with Machine(tmp_path, network, socket) as machine:
                yield machine


@pytest.mark.parametrize("terminals", ["one terminal", "a terminal for each page"])
def test_pages_can_be_pasted_in_order(machine, terminals):
    printed: dict[str, str] = {}
    for page in pages():
        if terminals == "a terminal for each page":
            machine.open_terminal()
        for one in filter(is_pasted, blocks(page)):
            if (one.page, one.heading) == STOPS_README:
                machine.stop_servers(README)
            if one.text.startswith("cargo run") and machine.is_serving(README):
                continue  # As the page says.
            printed[page] = printed.get(page, "") + machine.paste(one)
        if page != README:
            machine.stop_servers(page)

    assert printed[README].endswith("checkout: True\n"), printed[README]
    assert re.search(r"^checkout +default +enabled +New checkout ", printed[README], re.MULTILINE), printed[README]
    assert re.search(r'"reason":\s*"launch day"', printed[README]), printed[README]
    started = printed["docs/getting-started.md"]
    assert "toggled.v1.ToggleService" in started and re.search(r'"status":\s*"FEATURE_FLAG_STATUS_ENABLED"', started)
    assert re.search(r"too early", started), started
    assert printed["docs/command-line.md"].endswith(
        "admin@localhost: a place to start\nadmin@localhost: launch day\nadmin@localhost: both or neither\n"
        "admin@localhost: it was not the cart\n"
    ), printed["docs/command-line.md"]
    (answer,) = [one.text for one in blocks("docs/clients.md") if one.language == "json"]
    assert printed["docs/clients.md"].count("checkout: True\n") == 2, printed["docs/clients.md"]
    # The revision depends on the pages before.
    answer = re.escape(answer.strip()).replace('"42"', r'"\d+"')
    assert "checkout: true\n" in printed["docs/clients.md"] and re.search(answer, printed["docs/clients.md"])
    access = printed["docs/access.md"]
    assert '"reason": "the team has names now"' in access and '"lastUsedAt": null' in access, access
    assert re.search(r"ann@example\.com +toggle_disabled|^sale +default +disabled +yes", access, re.MULTILINE), access
    assert re.search(r"^toggled_[0-9A-Za-z]{49}$", access, re.MULTILINE), access
    assert "2 flags" in printed["docs/import-export.md"] or "create" in printed["docs/import-export.md"]
    assert printed["docs/audit-proof.md"].count("intact: entries") == 5, printed["docs/audit-proof.md"]
    assert printed["docs/deployment.md"].count("ready: log") == 3, printed["docs/deployment.md"]
    assert printed["docs/operations.md"].count("intact: entries") == 2, printed["docs/operations.md"]
    assert_secrets_are_ignored(machine.clone)


def assert_secrets_are_ignored(clone):
    """Git ignores every file with a secret that the commands left in the clone."""
    subprocess.run(["git", "init", "--quiet", clone], check=True)
    (clone / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    files = [file for file in clone.iterdir() if file.is_file()]
    secret = [file.name for file in files if re.search(rb"toggled_[0-9A-Za-z]{49}|PRIVATE KEY", file.read_bytes())]
    assert {"toggled-admin.token", "toggled-checkpoint.key", "checkout.token", "server.key"} <= set(secret), secret
    listed = subprocess.run(["git", "-C", clone, "check-ignore", *secret], capture_output=True, text=True)
    assert set(secret) == set(listed.stdout.split()), f"not in .gitignore: {set(secret) - set(listed.stdout.split())}"


def test_blocks_tested_elsewhere_exist():
    found = {(one.page, one.heading) for page in pages() for one in blocks(page)}
    assert TESTED_ELSEWHERE.keys() <= found
    assert STOPS_README in found
    # `console` is for commands that take minutes.
    assert {one.page for page in pages() for one in blocks(page) if one.language == "console"} <= {"docs/performance.md"}


def test_rust_program_reads_a_flag(tmp_path):
    """The Rust provider cannot send a token. The program is a package of the workspace, compiled before this test."""
    program = block("docs/clients.md", "Rust", "rust")
    assert program.text == (ROOT / "tests" / "clients" / "rust" / "src" / "main.rs").read_text()
    with private_network("127.0.0.1", 50051) as network:
        with Server(tmp_path, environment={"TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS": "default"}, network=network):
            create = "flag create checkout --enabled --token-file toggled-admin.token"
            subprocess.run(network.command([BINARY, *create.split()]), cwd=tmp_path, check=True, capture_output=True)
            read = network.command([BINARY.parent / "read_flag"])
            ended = subprocess.run(read, env=os.environ, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "checkout: true\n"), ended.stderr
