"""Builds the stages of an image in folders instead of containers."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from dockerfile import Stage
from network import Network

# The libraries of gcr.io/distroless/cc-debian12 (libc6, libgcc-s1).
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def context_files(context: Path) -> list[str]:
    """The paths that .dockerignore includes. It must exclude everything else."""
    lines = (context / ".dockerignore").read_text().splitlines()
    everything, *exceptions = [line for line in lines if line and not line.startswith("#")]
    assert everything == "*" and all(line.startswith("!") for line in exceptions)
    return [line[1:] for line in exceptions]


def build(stage: Stage, root: Path, context: Path, arguments: dict[str, str], environment: dict[str, str]) -> None:
    """Runs the stage's RUN commands unchanged, with `root` as its file system. This machine stands for its base image."""
    workdir = root / stage.settings["WORKDIR"].lstrip("/")
    workdir.mkdir(parents=True, exist_ok=True)
    assert arguments.keys() <= stage.arguments.keys()
    for instruction, flags, what in stage.steps:
        if instruction == "COPY":
            assert (flags, what) == ({}, ". .")
            for name in context_files(context):
                _copy(context / name, workdir / name)
        else:
            environment_ = {**os.environ, **environment, **stage.arguments, **arguments}
            subprocess.run(["sh", "-c", what], cwd=workdir, env=environment_, check=True)


def build_final(stage: Stage, builder: Path, root: Path) -> None:
    """Builds the final stage's file system: files copied from the builder, and the libraries of its base image."""
    for instruction, flags, what in stage.steps:
        assert instruction == "COPY", "RUN needs a shell, which the image lacks"
        source, target = what.split()
        _copy(builder / source.lstrip("/"), root / target.lstrip("/"))
        if "chown" in flags and os.geteuid() == 0:
            user, group = flags["chown"].split(":")
            os.chown(root / target.lstrip("/"), int(user), int(group))
    (program,) = stage.settings["ENTRYPOINT"]
    output = subprocess.run(["ldd", root / program.lstrip("/")], capture_output=True, text=True, check=True).stdout
    for library in re.findall(r"(/\S+) \(0x", output):
        assert Path(library).name in LIBRARIES, f"{library} is not in {stage.image}"
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library.lstrip("/"))


def command_in(stage: Stage, root: Path, command: list[str], network: Network = Network(), **more: str) -> dict:
    """Arguments for subprocess that run a command with the container's files, user and environment."""
    user, group = stage.settings["USER"].split(":")
    if os.geteuid() == 0:
        enter = ["chroot", f"--userspec={user}:{group}", "--groups=", root]
    else:
        enter = ["unshare", f"--map-user={user}", f"--map-group={group}", f"--root={root}"]
    # Both change to /, so the container's WORKDIR has no effect.
    assert stage.environment["TOGGLED_DATABASE_URL"].startswith("sqlite:///"), "the database needs an absolute path"
    # chroot is in /usr/sbin, which a user's PATH may lack.
    program = shutil.which(enter[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    enter = network.command([program, *enter[1:]])
    return {"args": [*enter, *command], "env": {**stage.environment, **more}}


def _copy(source: Path, target: Path) -> None:
    """Keeps the modification times, so that unchanged files are not compiled again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
