"""Raw requests over TLS, so that a test says every byte: no library repairs a path, a header or a request line."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import PATIENCE


@dataclass(frozen=True)
class Answer:
    """Status 0: the connection was closed or refused without an answer. Header names in lower case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@dataclass(frozen=True)
class Door:
    """One published port: an address, the name its certificate has to carry, and the roots to check it with."""

    address: str
    port: int
    roots: str

    @property
    def host(self) -> str:
        return f"{self.address}:{self.port}"

    def connect(self, timeout: float = PATIENCE, alpn: str = "http/1.1") -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.roots)
        context.set_alpn_protocols([alpn])
        link = socket.create_connection((self.address, self.port), timeout)
        return context.wrap_socket(link, server_hostname=self.address)

    def raw(self, data: bytes, timeout: float = PATIENCE) -> Answer:
        """Send these bytes inside TLS; the answer to the first request."""
        try:
            with self.connect(timeout) as link:
                link.sendall(data)
                answer = http.client.HTTPResponse(link)
                answer.begin()
                return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read(200_000))
        except (OSError, http.client.HTTPException):
            return Answer(0)

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        timeout: float = PATIENCE,
    ) -> Answer:
        """One request with exactly these headers, and Host unless there is one among them."""
        fields = {"Host": self.host, "Connection": "close", **(headers or {})}
        if body or method in ("POST", "PUT", "PATCH"):
            fields.setdefault("Content-Length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        return self.raw(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body, timeout)

    def plain(self, data: bytes, timeout: float = 10) -> bytes:
        """What comes back for bytes that are not TLS; b"" for nothing."""
        result = b""
        try:
            with socket.create_connection((self.address, self.port), timeout) as link:
                link.sendall(data)
                while chunk := link.recv(4096):
                    result += chunk
        except OSError:
            pass
        return result

    def json(self, path: str, body: Any, headers: dict[str, str]) -> Answer:
        return self.ask(path, "POST", {"Content-Type": "application/json", **headers}, json.dumps(body).encode())
