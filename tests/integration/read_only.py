"""A proxy before an MLflow server that lets only reads through, with a login, and fails now and then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import requests

from helpers.imports.tracking_server import SEARCHES

EVERY = 40  # of so many requests one fails
SENT = ("Content-Type", "Content-Length")


class Proxy:
    """``refused``: what was asked that is no read; ``failed``: how many requests got no good answer."""

    def __init__(self, target: str, login: str) -> None:
        self.target, self.login = target, login
        self.refused: list[str] = []
        self.failed = self.count = 0
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path.strip("/")
        content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        if handler.command != "GET" and not (handler.command == "POST" and path in SEARCHES):
            self.refused.append(f"{handler.command} {path}")
            _send(handler, 405, b"")
        elif handler.headers.get("Authorization") != self.login:
            _send(handler, 401, b"")
        else:
            self.count += 1
            if self.count % EVERY == 0:
                self.failed += 1
                _send(handler, 503, b"")
                return
            got = requests.request(
                handler.command,
                f"{self.target}{handler.path}",
                data=content or None,
                headers={name: handler.headers[name] for name in SENT if name in handler.headers},
                timeout=300,
            )
            _send(handler, got.status_code, got.content)


def _send(handler: BaseHTTPRequestHandler, status: int, content: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


@contextmanager
def proxy(target: str, login: str) -> Iterator[Proxy]:
    result = Proxy(target, login)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            result.answer(self)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        result.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield result
        finally:
            server.shutdown()
