"""The services behind the gateway share a host name: their cookies, pages and certificates are kept apart."""

from __future__ import annotations

import http.client
import subprocess
from pathlib import Path

import pytest

from tests.integration import inspection
from tests.security.conftest import Target
from tests.security.wire import Door

pytestmark = pytest.mark.docker


def cookies(door: Door, path: str) -> list[str]:
    """The Set-Cookie headers of an answer, each."""
    with door.connect() as link:
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: {door.host}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(link)
        answer.begin()
        return answer.headers.get_all("Set-Cookie") or []


def test_jupyterlabs_cookies(attack: Target) -> None:
    door = attack.door("jupyter")
    result = cookies(door, f"/lab?token={attack.token}")
    named = {text.split("=", 1)[0]: text for text in result}
    login = f"username-{door.host.replace('.', '-').replace(':', '-')}"
    assert login in named
    for name, text in named.items():
        words = [word.strip().lower() for word in text.split(";")]
        assert {"secure", "samesite=lax"} <= set(words), text
        assert ("httponly" in words) is (name != "_xsrf"), text
    cookie = named[login].split(";", 1)[0]
    assert door.ask("/api/contents", headers={"Cookie": cookie}).status == 200
    for origin in (f"https://{attack.door('mlflow').host}", "http://localhost:5173", "null"):
        assert door.ask("/api/contents", headers={"Cookie": cookie, "Origin": origin}).status in (403, 404)
    assert door.ask("/api/contents", headers={"Cookie": cookie, "Origin": f"https://{door.host}"}).status == 200


def test_a_logins_password_does_not_reach_the_notebook(attack: Target) -> None:
    """The notebook's user reads what comes to JupyterLab: an extension of the server is enough."""
    assert attack.door("jupyter").ask("/api/contents", headers=attack.login).status == 403
    assert attack.door("jupyter").ask("/api/contents", headers={"Authorization": f"token {attack.token}"}).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:5173",
        "http://127.0.0.1:3000",
        "https://localhost:8000",
        "https://{jupyter}",
        "null",
        "http://{mlflow}",
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_mlflows_own_pages_use_it(attack: Target, method: str, origin: str) -> None:
    door = attack.door("mlflow")
    named = origin.format(jupyter=attack.door("jupyter").host, mlflow=door.host)
    for path in ("/api/2.0/mlflow/experiments/create", "/ajax-api/3.0/mlflow/assistant/config"):
        answer = door.ask(path, method, {**attack.login, "Origin": named, "Content-Type": "application/json"}, b"{}")
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers
        site = door.ask(path, method, {**attack.login, "Sec-Fetch-Site": "same-site"}, b"{}")
        assert site.status == 403


def test_frames_caches_and_referrers(attack: Target) -> None:
    mlflow, jupyter = attack.door("mlflow"), attack.door("jupyter")
    page = mlflow.ask("/", headers=attack.login)
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    traces = mlflow.ask("/static-files/lib/notebook-trace-renderer/index.html", headers=attack.login)
    assert traces.headers["content-security-policy"].endswith(f"frame-ancestors 'self' https://{jupyter.host}")
    token = jupyter.ask(f"/lab?token={attack.token}")
    assert token.headers["cache-control"] == "no-store"
    assert "frame-ancestors" in token.headers["content-security-policy"]
    for answer in (page, traces, token):
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "strict-transport-security" not in answer.headers  # the CA is our own
    assert mlflow.ask("/", "TRACE", attack.login).status == 405


def openssl(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("IP:{address}", True),
        ("DNS:localhost", True),
        ("IP:127.0.0.1", True),
        ("DNS:evil.example", False),
        ("IP:192.0.2.1", False),
        ("DNS:localhost,DNS:evil.example", False),
    ],
)
def test_the_gateways_ca_signs_for_its_own_names_only(attack: Target, tmp_path: Path, name: str, good: bool) -> None:
    """Whoever takes the CA's key can be this machine to its clients, not their bank."""
    container = inspection.container(attack.clone, "gateway")
    for file in ("root.crt", "root.key"):
        inspection.output("docker", "cp", f"{container}:/data/authority/{file}", str(tmp_path / file))
    assert (tmp_path / "root.crt").read_text() == (attack.clone.project_folder / "gateway-root.crt").read_text()
    san = f"subjectAltName={name.format(address=attack.other_host.machine)}"
    done = openssl(
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "leaf.key",
        "-out",
        "leaf.csr",
        "-subj",
        "/O=leaf",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "extensions").write_text(san + "\n")
    done = openssl(
        "x509",
        "-req",
        "-in",
        "leaf.csr",
        "-CA",
        "root.crt",
        "-CAkey",
        "root.key",
        "-CAcreateserial",
        "-days",
        "1",
        "-extfile",
        "extensions",
        "-out",
        "leaf.crt",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = openssl("verify", "-purpose", "sslserver", "-CAfile", "root.crt", "leaf.crt", folder=tmp_path)
    assert (done.returncode == 0) is good, done.stdout + done.stderr
    assert good or "permitted subtree" in done.stdout + done.stderr


def test_clients_take_the_certificates(attack: Target) -> None:
    """Python is the other tests' client; curl asks too, and OpenSSL with all its strictness."""
    door = attack.door("mlflow")
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "--cacert",
            door.roots,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "20",
            f"https://{door.host}/",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "401", done.stderr
    done = subprocess.run(
        ["openssl", "s_client", "-connect", door.host, "-CAfile", door.roots, "-x509_strict", "-verify_return_error"],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Verify return code: 0 (ok)" in done.stdout, done.stdout + done.stderr
