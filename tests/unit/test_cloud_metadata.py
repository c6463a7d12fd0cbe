"""Address discovery against a small server that answers as each cloud does."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import cloud_metadata

Reply = tuple[int, str]
Cloud = Callable[[str, str, dict[str, str]], Reply]


@pytest.fixture
def serve() -> Iterator[Callable[[Cloud], tuple[str, int]]]:
    servers = []

    def start(cloud: Cloud) -> tuple[str, int]:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                status, text = cloud(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                with contextlib.suppress(OSError):  # whoever has read enough goes
                    self.wfile.write(text.encode())

            do_GET = do_PUT = answer

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return "127.0.0.1", server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def openstack(address: str) -> Cloud:
    return lambda method, path, headers: (200, address) if path == "/latest/meta-data/public-ipv4" else (404, "")


def aws(address: str) -> Cloud:
    def answer(method: str, path: str, headers: dict[str, str]) -> Reply:
        if method == "PUT" and path == "/latest/api/token":
            return (200, "TOKEN==") if "x-aws-ec2-metadata-token-ttl-seconds" in headers else (400, "")
        if headers.get("x-aws-ec2-metadata-token") != "TOKEN==":
            return 401, "Unauthorized"
        return (200, address) if path == "/latest/meta-data/public-ipv4" and address else (404, "Not Found")

    return answer


def google(method: str, path: str, headers: dict[str, str]) -> Reply:
    right = headers.get("metadata-flavor") == "Google" and headers.get("host") == "metadata.google.internal"
    return (200, "203.0.113.9") if path == cloud_metadata.GOOGLE and right else (403 if not right else 404, "no")


def azure(method: str, path: str, headers: dict[str, str]) -> Reply:
    return (200, "203.0.113.8") if path == cloud_metadata.AZURE and headers.get("metadata") == "true" else (400, "no")


@pytest.mark.parametrize(
    ("cloud", "address", "name"),
    [
        (openstack("203.0.113.7"), "203.0.113.7", "AWS or OpenStack"),
        (openstack("203.0.113.7\n"), "203.0.113.7", "AWS"),
        (aws("203.0.113.6"), "203.0.113.6", "AWS"),
        (google, "203.0.113.9", "Google"),
        (azure, "203.0.113.8", "Azure"),
    ],
)
def test_clouds(serve: Callable[[Cloud], tuple[str, int]], cloud: Cloud, address: str, name: str) -> None:
    result = cloud_metadata.public_address(serve(cloud))
    assert result.address == address and result.cloud.startswith(name)


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        (openstack(""), "HTTP 200, empty"),
        (aws(""), "HTTP 404"),
        (openstack("<html>log in</html>"), "no address"),
        (openstack("0.0.0.0"), "no address"),
        (openstack("127.0.0.1"), "no address"),
        (openstack("169.254.1.1"), "no address"),
        (openstack("10.0.0.1\n10.0.0.2"), "no address"),
        (lambda m, p, h: (302, ""), "HTTP 302"),
        (lambda m, p, h: (500, "x"), "HTTP 500"),
    ],
)
def test_no_address(serve: Callable[[Cloud], tuple[str, int]], cloud: Cloud, words: str) -> None:
    result = cloud_metadata.public_address(serve(cloud))
    assert result.address == "" and words in result.why


def test_nobody_there() -> None:
    assert "no metadata service" in cloud_metadata.public_address(("127.0.0.1", 1)).why


def test_a_proxy_is_not_asked(serve: Callable[[Cloud], tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert cloud_metadata.public_address(serve(openstack("203.0.113.7"))).address == "203.0.113.7"


def test_a_hanging_service_is_given_up(
    serve: Callable[[Cloud], tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud_metadata, "READ", 0.2)

    def slow(method: str, path: str, headers: dict[str, str]) -> Reply:
        time.sleep(1)
        return 200, "203.0.113.7"

    begun = time.monotonic()
    assert cloud_metadata.public_address(serve(slow)).address == ""
    assert time.monotonic() - begun < 3
