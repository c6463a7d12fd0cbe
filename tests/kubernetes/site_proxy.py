"""A proxy with a login, as a site has it: pods reach it on the nodes' network."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = "10.245.0.1"  # of this machine: tests/environment/kubernetes/common.sh
LOGIN = "ada:hunter2"


class SiteProxy(ThreadingHTTPServer):
    """``asked``: the addresses that it was asked for by who knows the login."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://{LOGIN}@{ADDRESS}:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: SiteProxy

    def do_GET(self) -> None:
        expected = f"Basic {base64.b64encode(LOGIN.encode()).decode()}"
        known = self.headers.get("Proxy-Authorization") == expected
        if known:
            self.server.asked.append(self.path)
        self.send_response(200 if known else 407)
        self.end_headers()
        self.wfile.write(b"by the proxy")

    do_POST = do_CONNECT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


@contextmanager
def site_proxy() -> Iterator[SiteProxy]:
    with SiteProxy() as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()
