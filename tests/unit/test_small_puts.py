"""Small objects into a store by the signature alone (trackbed_mlflow/small_puts.py)."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

pytest.importorskip("botocore")

from trackbed_mlflow.small_puts import SmallPuts

KEYS = ("key", "not-a-secret")


class Store(http.server.BaseHTTPRequestHandler):
    """Answers the MD5 of what arrives, where botocore itself would sign it so."""

    protocol_version = "HTTP/1.1"
    stored: dict[str, bytes]
    connections: set[Any]

    def do_PUT(self) -> None:  # noqa: N802
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.connections.add(self.client_address)
        right = self.headers["Authorization"] == self._signature()
        right = right and self.headers["X-Amz-Content-SHA256"] == hashlib.sha256(content).hexdigest()
        self.send_response(200 if right and "refused" not in self.path else 409)
        self.send_header("ETag", f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        if right:
            self.stored[unquote(self.path)] = content

    def _signature(self) -> str:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        request = AWSRequest("PUT", f"http://{self.headers['Host']}{self.path}")
        signed = self.headers["Authorization"].split("SignedHeaders=")[1].split(",")[0]
        for name in signed.split(";"):
            request.headers[name] = self.headers[name]
        request.context["timestamp"] = self.headers["X-Amz-Date"]
        signer = S3SigV4Auth(Credentials(*KEYS), "s3", "us-east-1")
        canonical = signer.canonical_request(request)
        assert "/b/p/" in canonical
        signature = signer.signature(signer.string_to_sign(request, canonical), request)
        return f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={signed}, Signature={signature}"

    def log_message(self, *_: Any) -> None:
        """Not said."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Store.stored, Store.connections = {}, set()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def puts(endpoint: str) -> SmallPuts:
    from botocore.credentials import Credentials

    return SmallPuts(endpoint, "b", "us-east-1", Credentials(*KEYS).get_frozen_credentials(), 2)


def put(place: SmallPuts, key: str, content: bytes) -> str:
    return place.put(key, content, hashlib.sha256(content).hexdigest())


def test_objects_of_any_name_over_one_connection(endpoint: str) -> None:
    place = puts(endpoint)
    names = ("p/1/a b+c&d=é/\U0001f600 %20?#", "p/empty", "p/a//b", "p/~x;y@z")
    for name in names:
        content = b"" if name == "p/empty" else name.encode()
        assert put(place, name, content) == hashlib.md5(content, usedforsecurity=False).hexdigest()
    assert Store.stored == {f"/b/{name}": b"" if name == "p/empty" else name.encode() for name in names}
    assert len(Store.connections) == 1


def test_what_is_not_stored_is_left_to_boto3(endpoint: str) -> None:
    place = puts(endpoint)
    assert place.put("p/other content", b"x", hashlib.sha256(b"y").hexdigest()) == ""
    assert [put(place, name, b"x") for name in ("p/refused", "p/\udcff")] == ["", ""]
    assert put(puts("http://127.0.0.1:1"), "p/a", b"x") == ""


@pytest.mark.parametrize("address", ["https://s3.example.org", "http://store:9000/below"])
def test_only_a_plain_store(address: str) -> None:
    pytest.importorskip("boto3")
    client = SimpleNamespace(meta=SimpleNamespace(endpoint_url=address, region_name="us-east-1"))
    assert SmallPuts.of(client, "b", 2) is None
