"""Runs shell commands as a user would paste them, with grpcurl on the PATH."""

import os
import subprocess
from pathlib import Path

from network import Network
from paths import BINARY, BUF, GRPCURL, GRPCURL_FOLDER, TOOLS


def shell(text: str, folder: Path, network: Network = Network()) -> str:
    """Runs the text in bash in the folder, and returns its stdout. Fails at the first command that fails."""
    # The real grpcurl, if Go could build it, takes precedence. The stand-in needs buf, and a Python with protobuf.
    path = [BINARY.parent, TOOLS / "venv" / "bin", BUF.parent, GRPCURL.parent, os.environ["PATH"], GRPCURL_FOLDER]
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
