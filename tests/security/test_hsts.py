"""HTTPS only, as browsers are told: for the name whose certificate they know by themselves, and nowhere else."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path

import pytest

from helpers.engines import gateway_spec
from tests.claims import free_ports
from tests.integration import inspection
from tests.security.conftest import Target
from tests.unit.fakes import project

pytestmark = pytest.mark.docker
NAME = "lab.example.test"
HEADER = "strict-transport-security"


def headers(port: int, name: str) -> dict[str, str]:
    """Of the answer to who asks by that name; whose certificate it is does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as link,
        context.wrap_socket(link, server_hostname=name) as secure,
    ):
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(secure)
        answer.begin()
        assert answer.status == 401
        return {key.lower(): value for key, value in answer.getheaders()}


def test_a_certificate_of_ones_own_ca_brings_none(attack: Target) -> None:
    for service in ("mlflow", "jupyter"):
        assert HEADER not in attack.door(service).ask("/", headers=attack.login).headers


def test_a_known_certificate_brings_it_for_its_own_name_alone(target: Target, tmp_path: Path) -> None:
    """The gateway with the line of a DOMAIN and a public CA; its certificate is of its own CA."""
    settings = project(tmp_path, public="true", domain=NAME).settings
    assert settings.acme and (line := gateway_spec.hsts(settings))
    image = inspection.output(
        "docker", "inspect", "-f", "{{.Config.Image}}", inspection.container(target.clone, "gateway")
    )
    (port,) = free_ports(1)
    reported = {
        "NAME": NAME,
        "CERTIFICATES": "internal",
        "HSTS": line,
        "MLFLOW_PORT": str(port),
        "CONSOLE": "",
        "S3": "",
        "ACME": "https://ca.example.test",
        "ACME_ROOT": "",
    }
    words = [word for key, value in reported.items() for word in ("-e", f"GATEWAY_{key}={value}")]
    created = inspection.output(
        "docker",
        "run",
        "--detach",
        "--rm",
        "--tmpfs",
        "/data:uid=10003",
        "--tmpfs",
        "/run/gateway:uid=10003",
        "-p",
        f"127.0.0.1:{port}:8000",
        *words,
        image,
    )
    try:
        inspection.answering(lambda: headers(port, NAME), (OSError, http.client.HTTPException))  # type: ignore[arg-type]
        assert headers(port, NAME)[HEADER] == "max-age=15552000"
        assert HEADER not in headers(port, "localhost")
    finally:
        inspection.run("docker", "rm", "-f", created)
