"""The table of attacks: who, what, where, and the answer that a stranger or a user without the right has to get."""

from __future__ import annotations

import subprocess

import pytest

from tests.security.conftest import Target
from tests.security.wire import basic

pytestmark = pytest.mark.docker
MLFLOW_PATHS = (
    "/",
    "/health",
    "/version",
    "/metrics",
    "/graphql",
    "/api/2.0/mlflow/experiments/search",
    "/api/2.0/mlflow/runs/create",
    "/ajax-api/2.0/mlflow/experiments/list",
    "/static-files/index.html",
    "/api/2.0/mlflow-artifacts/artifacts?path=.",
    "/get-artifact?path=x&run_uuid=y",
    "/api/3.0/mlflow/server-info",
    "/openapi.json",
    "/docs",
    "/.git/config",
    "/signup",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "BREW")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", MLFLOW_PATHS)
def test_mlflow_without_a_login(attack: Target, path: str, method: str) -> None:
    answer = attack.door("mlflow").ask(path, method)
    assert answer.status == 401
    assert answer.body in (b"", b"Unauthorized\n")


@pytest.mark.parametrize("method", ("GET", "POST", "PUT", "DELETE"))
@pytest.mark.parametrize(
    "path", ("/", "/login", "/api/v1/login", "/api/v1/buckets", "/index.html", "/ws/objectManager")
)
def test_console_without_a_login(attack: Target, path: str, method: str) -> None:
    assert attack.door("console").ask(path, method).status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/contents"),
        ("GET", "/api/kernels"),
        ("POST", "/api/kernels"),
        ("GET", "/api/terminals"),
        ("POST", "/api/terminals"),
        ("GET", "/api/sessions"),
        ("POST", "/api/sessions"),
        ("PUT", "/api/contents/x.txt"),
        ("DELETE", "/api/contents/x.txt"),
        ("POST", "/api/contents"),
        ("GET", "/api/kernelspecs"),
        ("GET", "/api/status"),
        ("POST", "/api/shutdown"),
        ("GET", "/api/config/x"),
        ("GET", "/lab/api/settings"),
        ("GET", "/api/me"),
    ],
)
def test_jupyter_without_the_token(attack: Target, method: str, path: str) -> None:
    assert attack.door("jupyter").ask(path, method).status == 403


@pytest.mark.parametrize(
    "path", ("/lab", "/tree", "/files/x.txt", "/nbconvert/html/x.ipynb", "/lab/tree/..%2f..%2fetc")
)
def test_jupyter_pages_lead_to_the_login(attack: Target, path: str) -> None:
    answer = attack.door("jupyter").ask(path)
    assert answer.status in (302, 403, 404)
    assert answer.status != 302 or answer.headers["location"].startswith("/login?next=")


@pytest.mark.parametrize("token", ("", "x", "admin", "None", "null", "token", "%00", "a" * 5000))
@pytest.mark.parametrize("form", ("query", "header"))
def test_jupyter_with_a_wrong_token(attack: Target, token: str, form: str) -> None:
    door = attack.door("jupyter")
    answer = (
        door.ask(f"/api/contents?token={token}")
        if form == "query"
        else door.ask("/api/contents", headers={"Authorization": f"token {token}"})
    )
    assert answer.status == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/mlflow-artifacts"),
        ("GET", "/mlflow-artifacts?list-type=2"),
        ("PUT", "/mlflow-artifacts/x"),
        ("DELETE", "/mlflow-artifacts/x"),
        ("PUT", "/new-bucket"),
        ("GET", "/mlflow-artifacts/live/0"),
        ("POST", "/mlflow-artifacts?delete"),
        ("GET", "/mlflow-artifacts?acl"),
        ("GET", "/mlflow-artifacts/?policy"),
        ("PUT", "/mlflow-artifacts?policy"),
    ],
)
def test_s3_without_a_signature(attack: Target, method: str, path: str) -> None:
    answer = attack.door("s3").ask(path, method)
    assert answer.status == 403
    assert b"AccessDenied" in answer.body


PAIRS = [
    ("admin", "admin"),
    ("admin", "password"),
    ("admin", "password1234"),
    ("admin", ""),
    ("", ""),
    ("root", "root"),
    ("mlflow", "mlflow"),
    ("minioadmin", "minioadmin"),
    ("user", "user"),
    ("ann", ""),
    ("ann", "ann"),
    ("ann", "password"),
    ("ANN", "ann"),
    ("ann\x00", "x"),
    ("trackbed", "trackbed"),
    ("jovyan", "jovyan"),
    ("' OR 1=1--", "x"),
    ("end", "end"),
    ("end", ""),
    ("../users", "x"),
]


@pytest.mark.parametrize("service", ("mlflow", "console"))
@pytest.mark.parametrize("pair", PAIRS)
def test_guessed_passwords(attack: Target, service: str, pair: tuple[str, str]) -> None:
    assert attack.door(service).ask(headers={"Authorization": basic(*pair)}).status in (401, 429)


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YW5u",
        "Bearer x",
        "Digest username=ann",
        "Negotiate x",
        "token x",
        "basic Og==",
    ],
)
def test_odd_logins(attack: Target, header: str) -> None:
    assert attack.door("mlflow").ask(headers={"Authorization": header}).status in (401, 429)


def test_keys_of_one_door_open_no_other(attack: Target) -> None:
    keys = {name: attack.clone.value("credentials", "--format=env") for name in ("all",)}["all"]
    secrets = [line.split("=", 1)[1].strip("'") for line in keys.splitlines()]
    mlflow, jupyter = attack.door("mlflow"), attack.door("jupyter")
    for secret in (*secrets, attack.token):
        assert mlflow.ask(f"/?token={secret}").status == 401
        assert mlflow.ask(headers={"Authorization": f"token {secret}"}).status == 401
        for name in ("ann", "admin", secret):
            assert mlflow.ask(headers={"Authorization": basic(name, secret)}).status in (401, 429)
    assert jupyter.ask("/api/contents", headers=attack.login).status == 403
    assert jupyter.ask(f"/api/contents?token={attack.password}").status == 403
    assert mlflow.ask(f"/?token={attack.password}").status == 401
    assert attack.door("s3").ask("/mlflow-artifacts", headers=attack.login).status in (400, 403)


HOSTS = (
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "mlflow:8000",
    "mlflow",
    "127.0.0.1.nip.io",
    "169.254.169.254",
    "[::1]",
    "0.0.0.0",
    "x" * 300,
    "jupyter:8888",
    "store:9000",
    "gateway",
)


@pytest.mark.parametrize("service", ("mlflow", "jupyter", "console", "s3"))
@pytest.mark.parametrize("host", HOSTS)
def test_forged_hosts(attack: Target, service: str, host: str) -> None:
    """Also with the right login: nothing behind the gateway is asked under a foreign name (DNS rebinding)."""
    answer = attack.door(service).ask("/", headers={"Host": host, **(attack.login if service != "jupyter" else {})})
    assert answer.status == 421


@pytest.mark.parametrize(
    "origin",
    (
        "https://evil.example",
        "http://{host}",
        "https://{address}:1",
        "https://{address}",
        "null",
        "http://localhost:5173",
        "http://127.0.0.1:3000",
        "file://",
        "https://localhost.evil.example",
    ),
)
@pytest.mark.parametrize(
    "path", ("experiments/create", "runs/create", "experiments/delete", "registered-models/create")
)
def test_forged_origins(attack: Target, path: str, origin: str) -> None:
    """A page elsewhere that uses the login that a browser keeps: nothing is changed."""
    door = attack.door("mlflow")
    answer = door.json(
        f"/api/2.0/mlflow/{path}",
        {"name": "forged", "experiment_id": "0"},
        {**attack.login, "Origin": origin.format(host=door.host, address=door.address)},
    )
    assert answer.status == 403, answer.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-User", "ann"),
        ("X-Real-IP", "127.0.0.1"),
        ("Forwarded", "for=127.0.0.1;host=localhost"),
        ("X-Original-URL", "/health"),
        ("X-Rewrite-URL", "/health"),
        ("Remote-User", "ann"),
        ("X-Remote-User", "ann"),
        ("X-Authenticated-User", "ann"),
        ("X-HTTP-Method-Override", "OPTIONS"),
        ("X-Forwarded-Prefix", "/x"),
        ("Proxy-Authorization", "Basic YW5uOmFubg=="),
        ("Cookie", "token=x; session=y"),
        ("X-Mlflow-Authentication", "ann"),
    ],
)
def test_headers_that_claim_something(attack: Target, name: str, value: str) -> None:
    assert attack.door("mlflow").ask("/api/2.0/mlflow/experiments/search", headers={name: value}).status == 401
    assert attack.door("jupyter").ask("/api/contents", headers={name: value}).status == 403


def h2(attack: Target, *words: str) -> subprocess.CompletedProcess[str]:
    door = attack.door("mlflow")
    return subprocess.run(
        [
            "curl",
            "-sS",
            "--http2",
            "--cacert",
            door.roots,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
            "--max-time",
            "10",
            *words,
            f"https://{door.host}/",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "401 2"),
        (("-X", "POST"), "401 2"),
        (("-H", "Host: evil.example"), "421 2"),
        (("-u", "ann:x"), "4"),
        (("-X", "TRACE"), "401 2"),
    ],
)
def test_http2(attack: Target, words: tuple[str, ...], expected: str) -> None:
    assert h2(attack, *words).stdout.startswith(expected)
