"""A network of a test's own, so that the program's default port is free even beside a running server."""

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

# Prints a line when the loopback interface is up, then keeps the namespace until standard input ends. A connection must not begin at a
# port of the pages' servers: the kernel takes any that is not reserved. Not every PATH holds the folder of ip.
_HOLD = (
    "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && echo 50051-50052 >/proc/sys/net/ipv4/ip_local_reserved_ports"
    " && echo up && exec cat"
)


@dataclass(frozen=True)
class Network:
    """Runs commands in one network namespace."""

    _prefix: list = field(default_factory=list)

    def command(self, command) -> list:
        """The command line that runs this command in the namespace."""
        return [*self._prefix, *command]


@contextmanager
def private_network(address: str, port: int):
    """A new network namespace; where the machine allows none, the machine's own network, if this port is free there."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    hold = ["unshare", *as_root, "--net", "sh", "-c", _HOLD]
    holder = subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() == "up\n":
            credentials = ["--user", "--preserve-credentials"] if as_root else []
            yield Network([shutil.which("nsenter"), f"--target={holder.pid}", "--net", *credentials])
        else:
            _require_free(address, port, holder.stderr.read().strip())
            yield Network()
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
        holder.stderr.close()


def _require_free(address: str, port: int, reason: str) -> None:
    with socket.socket() as probe:
        # As the server binds: a port that a connection has just left is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            pytest.fail(f"no network namespace ({reason}), and {address}:{port} is not free: {error}")
