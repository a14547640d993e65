"""A way to a server that can be cut and restored."""

import socket
import threading


# A port of this address is nobody's while the way is cut: connections and servers take theirs from 127.0.0.1.
_APART = "127.0.0.3"


class Proxy:
    """Passes TCP connections on to the address that it was given. A context manager."""

    def __init__(self, target: str):
        self._target = target
        self._port = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.restore()

    @property
    def address(self) -> str:
        return f"{_APART}:{self._port}"

    def restore(self) -> None:
        """Listens, on the same port every time."""
        self._listener = socket.create_server((_APART, self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self) -> None:
        """Refuses new connections, and breaks those that are up."""
        # Closing alone does not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            broken, self._open = self._open, []
        for end in broken:
            _break(end)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_) -> None:
        self.cut()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._target.split(":"))
            except OSError:
                return
            with self._lock:
                self._open += [client, server]
            for source, sink in [(client, server), (server, client)]:
                threading.Thread(target=_pump, args=[source, sink], daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    _break(source)
    _break(sink)


def _break(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
