"""Runs the real server, in a folder of its own."""

import os
import queue
import re
import subprocess
import threading
import time
from pathlib import Path

from network import Network
from paths import BINARY

# The maximum number of seconds for a start or a stop.
TIMEOUT = 60

# These tests do not test the rate limit of changes.
UNLIMITED = {"TOGGLED_MAX_CHANGES_PER_SECOND": "1000000"}


class Server:
    """Starts `toggled` with these arguments, and waits until it is ready. A context manager, which stops it on exit."""

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
        # The lines of stdout read so far.
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
        """The address that the server printed, HOST:PORT."""
        return re.search(r"^toggled listens on (\S+)$", "\n".join(self.stdout), re.MULTILINE)[1]

    def wait_for(self, wanted) -> None:
        """Reads stdout up to the first line that satisfies `wanted`."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                line = self._lines.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"timed out after {TIMEOUT} s; {self._output()}") from None
            if line is None:
                raise AssertionError(f"the server ended with {self._process.wait()}; {self._output()}")
            self.stdout.append(line)
            if wanted(line):
                return

    def admin_token(self) -> str:
        """The token that the first start wrote for admin@localhost."""
        return (self.folder / "toggled-admin.token").read_text().strip()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops the server, if it runs."""
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the server did not stop within {TIMEOUT} s; {self._output()}") from None

    # Reads all the time, so that a full pipe never blocks the server.
    def _drain(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _output(self) -> str:
        return "\n".join(["output:", *self.stdout, self.stderr.read_text()])
