"""Runs shell text as a newcomer would paste it, grpcurl at hand."""

import os
import subprocess
from pathlib import Path

from network import Network
from places import BINARY, BUF, STAND_IN, TOOLS


def shell(text: str, folder: Path, network: Network) -> str:
    """Runs the text in bash in the folder, up to the first command that fails; gives its stdout, or fails."""
    # A real grpcurl goes first; the stand-in needs buf and the Python that has protobuf. The program is what README calls
    # toggled.
    path = [BINARY.parent, TOOLS / "venv" / "bin", BUF.parent, os.environ["PATH"], STAND_IN]
    ended = subprocess.run(
        network.command(["bash", "-e", "-o", "pipefail", "-c", text]),
        cwd=folder,
        env={**os.environ, "PATH": os.pathsep.join(map(str, path))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, f"exit status {ended.returncode} of\n{text}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
