"""A PostgreSQL cluster in a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from network import Network


@contextmanager
def cluster(network: Network = Network(), port: int | None = None, superuser: str = "toggled"):
    """Runs a new cluster, and yields the URL of its database. Its folder has a Unix socket as well."""
    programs = _programs()
    # Not below pytest's temporary folder, which other users cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="toggled-postgres-"))
    user = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        shutil.chown(folder, "postgres", "postgres")
        # The folder of runuser may be missing from root's PATH.
        runuser = shutil.which("runuser", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        user = [runuser or "runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        log = folder / f"{program}.log"
        # To a file: the server keeps its output open, so a pipe would never end.
        with log.open("wb") as output:
            ended = subprocess.run(
                network.command([*user, programs / program, *arguments]), cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        assert ended.returncode == 0, f"{program}:\n{log.read_text()}"

    data = str(folder / "data")
    try:
        run("initdb", "--pgdata", data, f"--username={superuser}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        port = port or _free_port()
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        run("pg_ctl", "start", "--pgdata", data, "--wait", "--options", options)
        try:
            yield f"postgres://{superuser}@127.0.0.1:{port}/postgres", folder
        finally:
            run("pg_ctl", "stop", "--pgdata", data, "--mode=immediate")
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    # Debian keeps the server's programs off the PATH, in one folder per version.
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = versions[-1] if versions else shutil.which("initdb")
    assert initdb, "PostgreSQL's server programs are missing: Debian package postgresql"
    return Path(initdb).parent


def _free_port() -> int:
    # PostgreSQL cannot choose a port itself.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
