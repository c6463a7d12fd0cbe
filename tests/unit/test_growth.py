"""The growth benchmark asks a project as its own clients do."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from benchmarks.runs import Asker

TOKEN = "what-this-system-asks-for"


class Guarded(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") == f"Bearer {TOKEN}" else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("token", "served"), [(TOKEN, True), ("", False)])
def test_a_system_that_asks_for_a_token_gets_it(token: str, served: bool) -> None:
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        asker = Asker(f"http://127.0.0.1:{server.server_port}", token)
        if served:
            assert asker.ask("GET", "/") == {}
        else:
            with pytest.raises(SystemExit, match="401"):
                asker.ask("GET", "/")
