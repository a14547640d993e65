"""A TCP proxy that can be cut and restored."""

import socket
import threading


# Connections and servers use ports of 127.0.0.1, so a port of this address stays free while the proxy is cut.
_OTHER_LOOPBACK = "127.0.0.3"


class Proxy:
    """Forwards TCP connections to the target address. A context manager."""

    def __init__(self, target: str):
        self._target = target
        self._port = 0
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.restore()

    @property
    def address(self) -> str:
        return f"{_OTHER_LOOPBACK}:{self._port}"

    def restore(self) -> None:
        """Starts to listen, always on the same port."""
        self._listener = socket.create_server((_OTHER_LOOPBACK, self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self) -> None:
        """Refuses new connections, and closes the existing ones."""
        # Closing alone would not wake the accepting thread.
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
