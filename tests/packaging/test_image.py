"""The image: its stages are commands, carried out here as they stand, without a container engine."""

import os
import shutil
import signal
import subprocess
import time
import tomllib

import pytest

import image
from dockerfile import stages
from network import private_network
from places import BINARY, ROOT

PATIENCE = 60
# What the program exits with when nobody serves where it asks.
UNAVAILABLE = 6
TARGET = BINARY.parents[1]
# Made anew each time, but always here: with the same paths and TARGET kept, only what has changed is compiled again.
BUILDER = TARGET / "image-builder"


@pytest.fixture(scope="module")
def stages_of_image():
    return stages(ROOT / "packaging" / "Dockerfile")


@pytest.fixture(scope="module")
def final(stages_of_image):
    return stages_of_image[-1]


@pytest.fixture(scope="module")
def builder(stages_of_image):
    """The builder's file system, after it has run."""
    shutil.rmtree(BUILDER, ignore_errors=True)
    arguments, environment = {"PROFILE": "dev"}, {"CARGO_TARGET_DIR": str(TARGET), "CARGO_NET_OFFLINE": "true"}
    image.build(stages_of_image[0], BUILDER, ROOT, arguments, environment)
    return BUILDER


@pytest.fixture
def root(final, builder, tmp_path):
    """The container's file system."""
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    image.lay_out(final, builder, root)
    return root


def files(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_the_builder_has_the_toolchain_of_the_repository(stages_of_image):
    wanted = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert stages_of_image[0].image == f"rust:{wanted}-bookworm"


def test_the_image_is_as_it_should_be(stages_of_image, final):
    builder, _ = stages_of_image
    assert (builder.name, builder.arguments) == ("builder", {"PROFILE": "release"})
    assert final.image == "gcr.io/distroless/cc-debian12"
    assert final.settings["USER"].split(":")[0].isdigit() and not final.settings["USER"].startswith("0")
    assert final.settings["VOLUME"] == final.settings["WORKDIR"] == "/data"
    assert final.settings["EXPOSE"] == final.environment["TOGGLED_LISTEN"].rpartition(":")[2]
    # There is no shell that could find the program, or hand a signal on to it.
    assert final.healthcheck == [*final.settings["ENTRYPOINT"], "health"]
    assert "TOGGLED_ALLOW_PLAINTEXT" not in final.environment


def test_it_holds_the_program_and_nothing_else(final, root):
    assert {name for name in files(root) if ".so" not in name} == {"usr/local/bin/toggled"}
    told = subprocess.run(["readelf", "-d", root / "usr/local/bin/toggled"], capture_output=True, text=True, check=True)
    needed = {line.split("[")[1].rstrip("]") for line in told.stdout.splitlines() if "(NEEDED)" in line}
    assert "libc.so.6" in needed and needed <= image.LIBRARIES, needed


def test_it_does_not_start_before_it_is_told_how_tokens_are_protected(final, root):
    command = [*final.settings["ENTRYPOINT"], *final.settings["CMD"]]
    ended = subprocess.run(**image.inside(final, root, command), capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2, ended.stderr
    assert "TOGGLED_ALLOW_PLAINTEXT" in ended.stderr and len(ended.stderr.splitlines()) == 1


@pytest.fixture
def network(final):
    """A network where the image's port is free."""
    with private_network("0.0.0.0", int(final.settings["EXPOSE"])) as network:
        yield network


def test_it_serves_is_healthy_and_stops_when_it_is_asked_to(final, root, network):
    before = files(root)
    command = [*final.settings["ENTRYPOINT"], *final.settings["CMD"]]
    plain = {"TOGGLED_ALLOW_PLAINTEXT": "true"}
    start = image.inside(final, root, command, network, **plain)
    server = subprocess.Popen(**start, stdout=subprocess.PIPE, text=True)
    try:
        until_healthy(final, root, network, server)
        assert running_as(server.pid) == final.settings["USER"].split(":")[0]
        server.send_signal(signal.Signals[final.settings["STOPSIGNAL"]])
        assert server.wait(PATIENCE) == 0
    finally:
        server.kill()
        server.wait()
    written = files(root) - before
    assert "data/toggled.db" in written and all(name.startswith("data/") for name in written), written
    assert "/data/toggled-admin.token" in server.stdout.read()
    check = image.inside(final, root, final.healthcheck, network)
    check = subprocess.run(**check, capture_output=True, text=True, timeout=PATIENCE)
    assert check.returncode == UNAVAILABLE, check.stderr


def until_healthy(final, root, network, server):
    """Asks as the container engine would."""
    deadline = time.monotonic() + PATIENCE
    while True:
        check = image.inside(final, root, final.healthcheck, network)
        ended = subprocess.run(**check, capture_output=True, text=True, timeout=PATIENCE)
        if ended.returncode == 0:
            return
        assert ended.returncode == UNAVAILABLE, f"no way to ask: {ended.stderr}"
        assert server.poll() is None, f"it ended with {server.returncode}"
        assert time.monotonic() < deadline, f"never healthy: {ended.stderr}"
        time.sleep(0.1)


def running_as(process):
    """The user whom a process runs as, by number, as it sees itself or as this machine does."""
    if os.geteuid() != 0:
        # Its number is its own namespace's.
        return open(f"/proc/{process}/uid_map").read().split()[0]
    status = open(f"/proc/{process}/status").read().splitlines()
    return next(line for line in status if line.startswith("Uid:")).split()[1]
