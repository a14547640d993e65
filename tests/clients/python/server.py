"""A server of the real binary, in a folder of its own."""

import os
import queue
import re
import subprocess
import threading
import time
from pathlib import Path

from network import Network
from places import BINARY

# How long a start or a stop may take before it counts as hanging.
PATIENCE = 60

# A test may change flags as fast as the machine lets it: how many changes a caller may make is not what is tested here.
UNLIMITED = {"TOGGLED_MAX_CHANGES_PER_SECOND": "1000000"}


class Server:
    """Starts `toggled` with these arguments in this folder; returns when it serves. A context manager: leaving stops it."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        network: Network = Network(),
    ):
        self.folder = folder
        self.stderr = folder / "stderr.log"
        # The tests' own environment must not configure the server.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOGGLED_")}
        with self.stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                network.command([BINARY, *arguments]),
                cwd=folder,
                env={**inherited, **UNLIMITED, **(environment or {})},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        # The lines that have been read so far.
        self.stdout: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._drain, daemon=True).start()
        try:
            self.wait_for(lambda line: line.startswith("ready"))
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def address(self) -> str:
        """Where it listens, HOST:PORT, by its own words."""
        return re.search(r"^toggled listens on (\S+)$", "\n".join(self.stdout), re.MULTILINE)[1]

    def wait_for(self, wanted) -> None:
        """Reads lines of stdout up to the first that is wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"waited {PATIENCE} s in vain; {self._said()}") from None
            if line is None:
                raise AssertionError(f"the server ended with {self._process.wait()}; {self._said()}")
            self.stdout.append(line)
            if wanted(line):
                return

    def admin_token(self) -> str:
        """What the first start wrote for admin@localhost."""
        return (self.folder / "toggled-admin.token").read_text().strip()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the server did not stop within {PATIENCE} s; {self._said()}") from None

    # All along, so that a full pipe never stops the server.
    def _drain(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _said(self) -> str:
        return "\n".join(["it said:", *self.stdout, self.stderr.read_text()])
