"""The image. Its stages are built and run without a container engine."""

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
from paths import BINARY, ROOT

TIMEOUT = 60
# The program's exit status when the server is unavailable.
UNAVAILABLE = 6
TARGET = BINARY.parents[1]
# Rebuilt each time, but always in this folder: with the same paths and TARGET, only changes are compiled.
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
    # What is compiled is shared with the tests. The program is not: they may be running it.
    folders = {"CARGO_TARGET_DIR": f"{BUILDER}-target", "CARGO_BUILD_BUILD_DIR": str(TARGET)}
    arguments, environment = {"PROFILE": "dev"}, {**folders, "CARGO_NET_OFFLINE": "true"}
    image.build(stages_of_image[0], BUILDER, ROOT, arguments, environment)
    return BUILDER


@pytest.fixture
def root(final, builder, tmp_path):
    """The container's file system."""
    root = tmp_path / "root"
    root.mkdir(mode=0o755)
    image.build_final(final, builder, root)
    return root


def files(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_builder_uses_the_repository_toolchain(stages_of_image):
    wanted = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert stages_of_image[0].image == f"rust:{wanted}-bookworm"


def test_image_settings_are_correct(stages_of_image, final):
    builder, _ = stages_of_image
    assert (builder.name, builder.arguments) == ("builder", {"PROFILE": "dist"})
    assert final.image == "gcr.io/distroless/cc-debian12"
    assert final.settings["USER"].split(":")[0].isdigit() and not final.settings["USER"].startswith("0")
    assert final.settings["VOLUME"] == final.settings["WORKDIR"] == "/data"
    assert final.settings["EXPOSE"] == final.environment["TOGGLED_LISTEN"].rpartition(":")[2]
    # The image has no shell to find the program or to forward signals.
    assert final.healthcheck == [*final.settings["ENTRYPOINT"], "health"]
    assert "TOGGLED_ALLOW_PLAINTEXT" not in final.environment


def test_image_holds_only_the_program(final, root):
    assert {name for name in files(root) if ".so" not in name} == {"usr/local/bin/toggled"}
    output = subprocess.run(["readelf", "-d", root / "usr/local/bin/toggled"], capture_output=True, text=True, check=True)
    needed = {line.split("[")[1].rstrip("]") for line in output.stdout.splitlines() if "(NEEDED)" in line}
    assert "libc.so.6" in needed and needed <= image.LIBRARIES, needed


def test_start_needs_tls_or_explicit_plaintext(final, root):
    command = [*final.settings["ENTRYPOINT"], *final.settings["CMD"]]
    ended = subprocess.run(**image.command_in(final, root, command), capture_output=True, text=True, timeout=TIMEOUT)
    assert ended.returncode == 2, ended.stderr
    assert "TOGGLED_ALLOW_PLAINTEXT" in ended.stderr and len(ended.stderr.splitlines()) == 1


@pytest.fixture
def network(final):
    """A network where the image's port is free."""
    with private_network("0.0.0.0", int(final.settings["EXPOSE"])) as network:
        yield network


def test_container_serves_is_healthy_and_stops(final, root, network):
    before = files(root)
    command = [*final.settings["ENTRYPOINT"], *final.settings["CMD"]]
    plain = {"TOGGLED_ALLOW_PLAINTEXT": "true"}
    start = image.command_in(final, root, command, network, **plain)
    server = subprocess.Popen(**start, stdout=subprocess.PIPE, text=True)
    try:
        until_healthy(final, root, network, server)
        assert running_as(server.pid) == final.settings["USER"].split(":")[0]
        server.send_signal(signal.Signals[final.settings["STOPSIGNAL"]])
        assert server.wait(TIMEOUT) == 0
    finally:
        server.kill()
        server.wait()
    written = files(root) - before
    assert "data/toggled.db" in written and all(name.startswith("data/") for name in written), written
    assert "/data/toggled-admin.token" in server.stdout.read()
    check = image.command_in(final, root, final.healthcheck, network)
    check = subprocess.run(**check, capture_output=True, text=True, timeout=TIMEOUT)
    assert check.returncode == UNAVAILABLE, check.stderr


def until_healthy(final, root, network, server):
    """Runs the health check until it succeeds, as a container engine would."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        check = image.command_in(final, root, final.healthcheck, network)
        ended = subprocess.run(**check, capture_output=True, text=True, timeout=TIMEOUT)
        if ended.returncode == 0:
            return
        assert ended.returncode == UNAVAILABLE, f"the health check failed: {ended.stderr}"
        assert server.poll() is None, f"the server exited with {server.returncode}"
        assert time.monotonic() < deadline, f"never healthy: {ended.stderr}"
        time.sleep(0.1)


def running_as(process):
    """The user id of a process, in its own user namespace if it has one."""
    if os.geteuid() != 0:
        # The id inside the process's namespace.
        return open(f"/proc/{process}/uid_map").read().split()[0]
    status = open(f"/proc/{process}/status").read().splitlines()
    return next(line for line in status if line.startswith("Uid:")).split()[1]
