"""A TCP proxy before a database, which cuts a connection where a test wants it cut."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType


class CuttingProxy:
    """Serves any number of connections.

    Args:
        port: of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        """Answers that were swallowed."""
        self._swallow: bytes | None = None
        self._wanted = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def swallow_answer(self, to: bytes, *, after: int = 0) -> None:
        """The next request that holds these bytes, less `after` of them, is done; its answer never arrives."""
        self._swallow, self._wanted = to, after

    def swallow_nothing(self) -> None:
        """Any more."""
        self._swallow = None

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        with client, server, contextlib.suppress(ConnectionError):
            self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        is_last = False
        while True:
            readable, _, _ = select.select([client, server], [], [])
            if client in readable:
                if not (data := client.recv(2**16)):
                    return
                is_last = is_last or self._is_wanted(data)
                server.sendall(data)
            if server in readable:
                data = server.recv(2**16)
                if not data or is_last:  # it was done: the answer is here
                    self.cuts += is_last
                    return
                client.sendall(data)

    def _is_wanted(self, data: bytes) -> bool:
        if self._swallow is None or self._swallow not in data:
            return False
        if self._wanted:
            self._wanted -= 1
            return False
        self._swallow = None
        return True
