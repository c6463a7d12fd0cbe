"""A small TCP proxy before an S3 server: it passes on, answers 503, or cuts connections in the middle."""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
from contextlib import suppress

BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
BODY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


class Proxy:
    """Listens on ``host``; ``mode`` is "pass", "busy" or "cut", and a change ends the open connections."""

    def __init__(self, host: str, target: tuple[str, int], rng: random.Random) -> None:
        self.host, self.target, self.rng = host, target, rng
        self._mode, self._open, self._lock = "pass", set[socket.socket](), threading.Lock()
        self.met = 0  # connections that got a fault
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set(self, mode: str) -> None:
        with self._lock:
            self._mode = mode
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.set("pass")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            mode = self._mode
            self._open.add(client)
        try:
            if mode == "busy":
                client.settimeout(10)
                client.recv(65536)
                self.met += 1
                client.sendall(BUSY % (len(BODY), BODY))
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):  # an answer is lost when its request was not read
                    pass
                return
            with socket.create_connection(self.target, timeout=10) as server:
                self._relay(client, server, self.rng.randrange(1, 400_000) if mode == "cut" else None)
        except OSError:
            pass  # the other side has gone
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()

    def _relay(self, client: socket.socket, server: socket.socket, budget: int | None) -> None:
        """Pass on until one side ends, or until ``budget`` bytes; then reset the connection."""
        with selectors.DefaultSelector() as ready:
            for one, other in ((client, server), (server, client)):
                one.settimeout(30)
                ready.register(one, selectors.EVENT_READ, other)
            while True:
                for key, _ in ready.select(60):
                    content = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not content:
                        return
                    if budget is not None:
                        content, budget = content[:budget], budget - len(content)
                    key.data.sendall(content)
                    if budget is not None and budget <= 0:
                        self.met += 1
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
