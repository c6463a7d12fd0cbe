"""A stand-in of a cloud's metadata service, or of another small HTTP service: what it answers is a function."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, str]
Cloud = Callable[[str, str, dict[str, str]], Reply]  # method, path, headers in small letters
Serve = Callable[[Cloud], tuple[str, int]]


def pages(texts: Mapping[str, str]) -> Cloud:
    """Answers with these texts, by path; all else is 404."""
    return lambda method, path, headers: (200, texts[path]) if path in texts else (404, "")


def aws(texts: Mapping[str, str]) -> Cloud:
    """The same as AWS has it: only with a token, which a PUT gives."""

    def answer(method: str, path: str, headers: dict[str, str]) -> Reply:
        if method == "PUT" and path == "/latest/api/token":
            return (200, "TOKEN==") if "x-aws-ec2-metadata-token-ttl-seconds" in headers else (400, "")
        if headers.get("x-aws-ec2-metadata-token") != "TOKEN==":
            return 401, "Unauthorized"
        return pages(texts)(method, path, headers)

    return answer


def google(texts: Mapping[str, str]) -> Cloud:
    """The same as Google has it: only with its header and under its name."""

    def answer(method: str, path: str, headers: dict[str, str]) -> Reply:
        if headers.get("metadata-flavor") != "Google" or headers.get("host") != "metadata.google.internal":
            return 403, ""
        return pages(texts)(method, path, headers)

    return answer


@contextlib.contextmanager
def serving() -> Iterator[Serve]:
    """Starts services, and ends them."""
    servers = []

    def start(cloud: Cloud) -> tuple[str, int]:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, text = cloud(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.send_header("X-Subject-Token", "a-token")  # as Keystone gives one
                self.end_headers()
                with contextlib.suppress(OSError):  # whoever has read enough goes
                    self.wfile.write(text.encode())

            do_GET = do_PUT = do_POST = answer

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return "127.0.0.1", server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
