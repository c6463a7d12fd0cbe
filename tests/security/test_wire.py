"""Attacks below the level of a request: bytes, TLS, half-open clients, ports, floods."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import PATIENCE
from tests.integration import inspection
from tests.security.conftest import Target
from tests.security.wire import basic

pytestmark = pytest.mark.docker
PUBLISHED = ("mlflow", "jupyter", "console", "s3")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("GET http://evil.example/ HTTP/1.1", (421,)),
        ("GET http://169.254.169.254/latest/ HTTP/1.1", (421,)),
        ("GET https://localhost:9999/ HTTP/1.1", (401,)),
        ("CONNECT evil.example:443 HTTP/1.1", (401, 405, 421)),
        ("OPTIONS * HTTP/1.1", (200,)),
        ("GET  / HTTP/1.1", (0, 400)),
        ("GET / HTTP/9.9", (400, 505)),
        ("GET /", (0, 400)),
        ("G\x00T / HTTP/1.1", (0, 400)),
        ("PRI * HTTP/2.0", (0, 400, 401, 405, 505)),
        ("\x16\x03\x01", (0, 400)),
        ("GET /\x00 HTTP/1.1", (400,)),
        ("GET /%00 HTTP/1.1", (401,)),
        ("TRACE / HTTP/1.1", (401, 405)),
    ],
)
def test_odd_request_lines(attack: Target, line: str, expected: tuple[int, ...]) -> None:
    door = attack.door("mlflow")
    data = f"{line}\r\nHost: {door.host}\r\nConnection: close\r\n\r\n".encode("latin-1")
    assert door.raw(data, 8).status in expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("Host: {host}\r\nHost: evil.example\r\n", (400,)),
        ("", (400,)),
        ("Host: {host}\r\nX: " + "a" * 40000 + "\r\n", (431,)),
        ("Host: {host}\r\n" + "".join(f"X-{n}: {n}\r\n" for n in range(3000)), (431,)),
        ("Host: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", (400, 401)),
        ("Host: {host}\r\nContent-Length: 5\r\nContent-Length: 6\r\n", (400,)),
        ("Host: {host}\r\nContent-Length: -1\r\n", (400,)),
        ("Host: {host}\r\nTransfer-Encoding: xchunked\r\n", (400, 501)),
        ("Host: {host}\r\nX : y\r\n", (400,)),
        ("Host: {host}\r\n X: folded\r\n", (400, 401)),
        ("Host: {host}\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n", (401,)),
        (
            "Host: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            (401,),
        ),
    ],
)
def test_odd_headers(attack: Target, headers: str, expected: tuple[int, ...]) -> None:
    door = attack.door("mlflow")
    assert door.raw(f"POST / HTTP/1.1\r\n{headers.format(host=door.host)}\r\n".encode(), 8).status in expected


WRONG = int(os.environ.get("TRACKBED_WRONG_PASSWORDS", "300"))
PATHS = (
    "/../../../../etc/passwd",
    "/..%2f..%2f..%2fetc%2fpasswd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/static-files/../../../../etc/passwd",
    "/static-files/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/..;/..;/etc/passwd",
    "/get-artifact?path=../../../../etc/passwd&run_uuid=x",
    "/%252e%252e%252fetc%252fpasswd",
    "/..\\..\\etc\\passwd",
    "/api/2.0/mlflow-artifacts/artifacts/../../../../etc/passwd",
    "/api/2.0/mlflow-artifacts/artifacts/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/api/2.0/mlflow-artifacts/artifacts/%2fetc%2fpasswd",
    "/api/2.0/mlflow-artifacts/artifacts?path=../../..",
    "/api/2.0/mlflow-artifacts/artifacts/%252e%252e/%252e%252e/etc/passwd",
    "/api/2.0/mlflow-artifacts/artifacts/a/..%5c..%5cetc%5cpasswd",
)


@pytest.mark.parametrize("login", (False, True), ids=("stranger", "user"))
@pytest.mark.parametrize("path", PATHS)
def test_ways_out_of_the_tree(attack: Target, path: str, login: bool) -> None:
    answer = attack.door("mlflow").ask(path, headers=attack.login if login else {})
    assert b"root:" not in answer.body and b"jovyan" not in answer.body
    assert answer.status in ((200, 301, 302, 307, 308, 400, 404, 500) if login else (401,))
    page = b"<html" in answer.body or b"<!doctype" in answer.body
    assert answer.status != 200 or page, answer.text[:200]


@pytest.mark.parametrize(
    "path",
    (
        "/api/kernels/x/channels",
        "/terminals/websocket/1",
        "/api/events/subscribe",
        "/lsp/ws/x",
        "/api/collaboration/room/x",
    ),
)
def test_websockets_of_jupyter_without_the_token(attack: Target, path: str) -> None:
    answer = attack.door("jupyter").ask(
        path,
        headers={
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Origin": "https://evil.example",
        },
    )
    assert answer.status in (403, 404)


@pytest.mark.parametrize("service", PUBLISHED)
def test_http_is_sent_to_https_and_tells_nothing(attack: Target, service: str) -> None:
    door = attack.door(service)
    answer = door.plain(f"GET /x HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 308") and f"Location: https://{door.host}/x".encode() in answer
    assert answer.split(b"\r\n\r\n", 1)[1] == b"" and b"Caddy" not in answer
    foreign = door.plain(b"GET /x HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert foreign.startswith(b"HTTP/1.0 421") and b"Location" not in foreign
    assert not door.plain(f"DELETE /x HTTP/1.1\r\nHost: {door.host}\r\n\r\n".encode()).startswith(b"HTTP/1.1 2")


@pytest.mark.parametrize("service", PUBLISHED)
@pytest.mark.parametrize("version", (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1))
def test_old_tls(attack: Target, service: str, version: ssl.TLSVersion) -> None:
    door = attack.door(service)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, OSError)), socket.create_connection((door.address, door.port), 10) as link:
        context.wrap_socket(link)


@pytest.mark.parametrize("name", ("evil.example", "store", "x" * 60 + ".example"))
def test_no_certificate_for_a_foreign_name(attack: Target, name: str) -> None:
    door = attack.door("mlflow")
    context = ssl._create_unverified_context()
    with pytest.raises((ssl.SSLError, OSError)), socket.create_connection((door.address, door.port), 10) as link:
        context.wrap_socket(link, server_hostname=name)


@pytest.mark.parametrize("service", PUBLISHED)
def test_no_banner(attack: Target, service: str) -> None:
    door = attack.door(service)
    for path in ("/", "/nothing-here", "/lab"):
        for headers in ({}, attack.login if service != "jupyter" else {}, {"Host": "evil.example"}):
            result = door.ask(path, headers=headers)
            assert not {"server", "via", "x-powered-by", "x-amz-server"} & set(result.headers), (path, result.headers)
            assert result.headers.get("x-content-type-options") == "nosniff"


def test_only_these_ports_are_open(attack: Target) -> None:
    """Every port of this machine's address that a service uses, inside or outside, and every container's own address."""
    numbers = {5432, 8000, 8888, 9000, 9001, 2019, 8080, 8443, 80, 443} - set(attack.clone.ports.values())
    assert not [
        n
        for n in sorted(numbers)
        if attack.other_host.handshake(attack.other_host.machine, n, 0.4) and n not in inspection.listening()
    ]
    assert all(attack.other_host.handshake(attack.other_host.machine, n) for n in attack.clone.ports.values())
    for service in ("postgres", "store", "mlflow", "jupyter", "gateway"):
        addresses = inspection.output(
            "docker",
            "inspect",
            "-f",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
            inspection.container(attack.clone, service),
        ).split()
        assert not [
            (service, a, n)
            for a in addresses
            for n in (5432, 8000, 8888, 9000, 9001, 2019)
            if attack.other_host.handshake(a, n, 0.3)
        ]


def test_wrong_passwords_do_not_starve_right_ones(attack: Target) -> None:
    door, wrong = attack.door("mlflow"), {"Authorization": basic("ann", "x" * 32)}

    def guess(_: int) -> int:
        return door.ask("/version", headers=wrong, timeout=60).status

    with ThreadPoolExecutor(8) as pool:
        begun = time.monotonic()
        with attack.other_host.entered():
            futures = [pool.submit(_outside, attack, guess, n) for n in range(WRONG)]
        slowest = 0.0
        while not all(f.done() for f in futures):
            at = time.monotonic()
            assert door.ask("/version", headers=attack.login).status == 200
            slowest = max(slowest, time.monotonic() - at)
        statuses = [f.result() for f in futures]
    assert set(statuses) <= {401, 429}
    assert statuses.count(429) > WRONG * 2 // 3, (time.monotonic() - begun, statuses[:20])
    assert slowest < 5


def _outside(attack: Target, call: Callable[[int], int], number: int) -> int:
    with attack.other_host.entered():  # a thread of its own starts in the machine's own namespace
        return call(number)


def test_slowloris(attack: Target) -> None:
    """200 clients that never finish their request (some not even their handshake): a good one is served, they end."""
    door, idle = attack.door("mlflow"), []
    try:
        for number in range(200):
            link = socket.create_connection((door.address, door.port), PATIENCE)
            if number % 2:
                link = ssl._create_unverified_context().wrap_socket(link)
                link.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            idle.append(link)
        for _ in range(10):
            assert door.ask("/version", headers=attack.login).status == 200
            for link in idle[1::40]:
                try:
                    link.sendall(b"a")
                except OSError:
                    pass
            time.sleep(1.5)
        ended = 0
        for link in idle:
            link.settimeout(PATIENCE)
            try:
                while link.recv(1000):
                    pass
                ended += 1
            except TimeoutError:
                pass
            except OSError:
                ended += 1
        assert ended == 200
    finally:
        for link in idle:
            link.close()


def test_a_slow_body_without_a_login_is_cut_off(attack: Target) -> None:
    door = attack.door("mlflow")
    with door.connect() as link:
        link.sendall(f"POST / HTTP/1.1\r\nHost: {door.host}\r\nContent-Length: 100000\r\n\r\n".encode())
        link.settimeout(PATIENCE)
        result = b""
        while chunk := link.recv(1000):
            result += chunk
    assert result.startswith(b"HTTP/1.1 401")
