"""A remote tracking server as a site may have it: TLS of a private CA and a login in front of an MLflow that has neither."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SKIPPED = ("connection", "transfer-encoding", "content-length", "host", "keep-alive")


def authority(folder: Path) -> Path:
    """A private CA; gives its certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
        "-subj",
        "/CN=Test CA",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout",
        str(folder / "ca.key"),
        "-out",
        str(folder / "ca.pem"),
    )
    return folder / "ca.pem"


def certificate(ca: Path, name: str) -> tuple[Path, Path]:
    """A certificate of that CA for a name or an address, and its key."""
    folder = ca.parent
    try:
        kind = f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        kind = f"DNS:{name}"
    key, request, created, extra = (folder / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
    extra.write_text(f"subjectAltName={kind}\nauthorityKeyIdentifier=keyid\n")  # Python 3.13 wants it
    _openssl(
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        f"/CN={name}",
        "-keyout",
        str(key),
        "-out",
        str(request),
    )
    _openssl(
        "x509",
        "-req",
        "-in",
        str(request),
        "-CA",
        str(ca),
        "-CAkey",
        str(folder / "ca.key"),
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        str(extra),
        "-out",
        str(created),
    )
    return created, key


def _openssl(*words: str) -> None:
    done = subprocess.run(
        ["openssl", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class TlsProxy:
    """What it listens on, whom it lets in (the value of the header; "": everybody), what it was asked."""

    address: str
    port: int = 0
    upstream: int = 0
    login: str = ""
    requests: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, status
    headers: list[str] = field(default_factory=list)  # the Authorization of each request

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.port}"


@contextmanager
def tls_proxy(address: str, upstream: int, pair: tuple[Path, Path] | None, login: str = "") -> Iterator[TlsProxy]:
    """A reverse proxy on ``address`` to 127.0.0.1:``upstream``; without a certificate it speaks plain HTTP."""
    created = TlsProxy(address, 0, upstream, login)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            created.headers.append(self.headers.get("Authorization") or "")
            status, headers, answer = 401, [("WWW-Authenticate", "Basic")], b"who are you?"
            if not created.login or self.headers.get("Authorization") == created.login:
                kept = {k: v for k, v in self.headers.items() if k.lower() not in (*SKIPPED, "authorization")}
                connection = http.client.HTTPConnection("127.0.0.1", created.upstream, timeout=60)
                try:
                    connection.request(self.command, self.path, body, {**kept, "Host": "localhost"})
                    got = connection.getresponse()
                    status, answer = got.status, got.read()
                    headers = [(k, v) for k, v in got.getheaders() if k.lower() not in SKIPPED]
                except OSError:
                    status, headers, answer = 502, [], b"nobody behind"
                finally:
                    connection.close()
            created.requests.append((self.command, self.path, status))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            created.requests.append(("", "", 0))  # a client that does not trust the certificate hangs up

    server = Server((address, 0), Handler)
    server.daemon_threads = True
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, pair))
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    created.port = int(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield created
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
