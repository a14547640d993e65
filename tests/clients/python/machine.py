"""A machine on which a reader pastes the commands of the documents: folders, terminals, running servers, and stand-ins for
programs that a test machine does not have."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from network import Network
from pages import Block
from paths import BINARY, BUF, GRPCURL, GRPCURL_FOLDER, ROOT, TOOLS

# The maximum number of seconds for a block, or for the start of a server.
TIMEOUT = 120

# The system's folders that the pages write to. They are replaced by folders of the machine.
SYSTEM_FOLDERS = ["/var/lib/toggled", "/var/backups", "/etc/toggled", "/etc/systemd/system", "/usr/local/bin"]

# Programs that a test machine lacks, or that would change it.
STAND_INS = {
    # The program is built already.
    "cargo": """case "$1" in
  run) exec target/release/toggled ;;
  build) mkdir -p target/dist && ln -sf "$PROGRAM" target/dist/toggled ;;
esac""",
    # `make test` would run this test.
    "make": "",
    "docker": "",
    "kubectl": """echo '{"level":"WARN"}'""",
    "journalctl": """echo '{"level":"WARN"}'""",
    # There is no user `toggled`.
    "useradd": "",
    "runuser": '[ "$1 $2 $3" = "-u toggled --" ] && shift 3 && exec "$@"',
    "install": """arguments=()
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then shift 2; else arguments+=("$1"); shift; fi; done
exec /usr/bin/install "${arguments[@]}\"""",
    # PostgreSQL's administrator is another user.
    "psql": 'PGHOST=$POSTGRES_SOCKET PGUSER=postgres exec /usr/bin/psql "$@"',
    "createdb": 'PGHOST=$POSTGRES_SOCKET PGUSER=postgres exec /usr/bin/createdb "$@"',
    # Runs the installed program as the unit does.
    "systemctl": """state="$MACHINE/toggled.service"
stop() {
  kill "$(cat "$state.pid")"
  while readlink "/proc/$(cat "$state.pid")/exe" >/dev/null; do sleep 0.02; done
}
start() {
  cd "$MACHINE/var/lib/toggled"
  url="sqlite://$MACHINE/var/lib/toggled/toggled.db"
  set -a; . "$MACHINE/etc/toggled/toggled.env"; set +a
  env -i PATH="$PATH" TOGGLED_DATABASE_URL="$url" setsid "$MACHINE/usr/local/bin/toggled" serve \\
    >"$state.out" 2>"$state.err" </dev/null &
  echo $! >"$state.pid"
  until grep -q ^ready "$state.out"; do readlink "/proc/$!/exe" >/dev/null; sleep 0.02; done
}
case "$*" in
  "enable --now toggled" | "start toggled") start ;;
  "stop toggled") stop ;;
esac""",
}

# The state of a terminal: its variables and functions, without those that bash sets itself.
_SAVE = r"""
{ declare -p | grep -vE '^declare -[a-zA-Z]*r|^declare -\S+ (BASH|FUNCNAME|GROUPS|DIRSTACK|PIPESTATUS|SHELLOPTS|_=|PPID|UID|EUID)' || :
  declare -f; } >"$TERMINAL_STATE"
"""


class Machine:
    """A context manager, which ends all servers on exit."""

    def __init__(self, folder: Path, network: Network, postgres_socket: Path):
        self.root = folder / "machine"
        # The clone of the repository in which README's commands run.
        self.clone = folder / "clone"
        self._state = folder / "terminal"
        self._network = network
        self._servers: list[tuple[Block, subprocess.Popen]] = []
        for system in SYSTEM_FOLDERS:
            (self.root / system[1:]).mkdir(parents=True, exist_ok=True)
        release = self.clone / "target" / "release"
        release.mkdir(parents=True)
        (release / "toggled").symlink_to(BINARY)
        (self.clone / "packaging").symlink_to(ROOT / "packaging")
        (self.clone / "node_modules").symlink_to(TOOLS / "node_modules")
        stand_ins = folder / "bin"
        stand_ins.mkdir()
        for name, script in STAND_INS.items():
            (stand_ins / name).write_text(f"#!/bin/bash\nset -e\n{script}\n")
            (stand_ins / name).chmod(0o755)
        # The real grpcurl, if Go could build it, takes precedence. The stand-in needs buf, and a Python with protobuf.
        path = [stand_ins, self.root / "usr/local/bin", TOOLS / "venv/bin", GRPCURL.parent, os.environ["PATH"], BUF.parent, GRPCURL_FOLDER]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOGGLED_")}
        self._environment = {
            **inherited,
            "PATH": os.pathsep.join(map(str, path)),
            "PROGRAM": str(BINARY),
            "MACHINE": str(self.root),
            "POSTGRES_SOCKET": str(postgres_socket),
            "TERMINAL_STATE": str(self._state),
            # The provider's default deadline of 0.5 s may be too short on a slow machine.
            "FLAGD_DEADLINE_MS": "10000",
        }

    def open_terminal(self) -> None:
        """The next blocks are pasted into a new terminal."""
        self._state.unlink(missing_ok=True)

    def paste(self, block: Block) -> str:
        """Saves a program, starts a server, or runs commands in the terminal, and returns what they print."""
        if block.language != "sh":
            (self.clone / block.file).write_text(block.text)
            return ""
        if block.starts_server:
            return self._start(block)
        restore = f'[ ! -e "$TERMINAL_STATE" ] || . "$TERMINAL_STATE"\n'
        ended = subprocess.run(
            self._bash(restore + self._local(block.text) + _SAVE),
            cwd=self.clone,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert ended.returncode == 0, (
            f"{block.page}, {block.heading}: exit status {ended.returncode} of\n{block.text}\n{ended.stdout}\n{ended.stderr}"
        )
        return ended.stdout

    def is_serving(self, page: str) -> bool:
        """Whether a server of this page runs."""
        return any(block.page == page for block, _ in self._servers)

    def stop_servers(self, page: str) -> None:
        """Presses Ctrl-C in the terminals of the servers of a page."""
        for block, process in [one for one in self._servers if one[0].page == page]:
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(TIMEOUT) == 0, block
            self._servers.remove((block, process))

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_) -> None:
        for _, process in self._servers:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        service = self.root / "toggled.service.pid"
        if service.exists():
            with suppress(ProcessLookupError):
                os.kill(int(service.read_text()), signal.SIGKILL)

    def _start(self, block: Block) -> str:
        output = self._state.with_name(f"server-{len(list(self._state.parent.glob('server-*')))}")
        with output.open("wb") as file:
            process = subprocess.Popen(
                self._bash(self._local(block.text)),
                cwd=self.clone,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._servers.append((block, process))
        deadline = time.monotonic() + TIMEOUT
        while not re.search("^ready: ", output.read_text(), re.MULTILINE):
            assert process.poll() is None and time.monotonic() < deadline, f"{block.text}\n{output.read_text()}"
            time.sleep(0.02)
        return output.read_text()

    def _bash(self, script: str) -> list:
        return self._network.command(["bash", "-e", "-o", "pipefail", "-c", script])

    def _local(self, text: str) -> str:
        for system in SYSTEM_FOLDERS:
            text = text.replace(system, str(self.root) + system)
        return text
