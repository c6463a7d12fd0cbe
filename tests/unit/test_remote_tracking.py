"""A remote tracking server: settings, secrets, the notebook's files, the login plugin, what its answers mean."""

from __future__ import annotations

import base64
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import clone, remote_server
from helpers.checks import readiness
from helpers.engines import container_secrets
from helpers.engines.base import JUPYTER, MLFLOW, Engine, ExecResult
from helpers.engines.docker import compose_model
from helpers.errors import SettingError, TrackbedError
from helpers.probes import tracking_server
from helpers.project import credentials, remote_tracking
from helpers.settings import Settings
from tests.unit.fakes import deployed, module_at, project

URI = "https://mlflow.example.org"


def settings(folder: Path, environ: dict[str, str] | None = None, **flags: str) -> Settings:
    return Settings.load(
        {"state_dir": str(folder / "state"), "tracking_uri": URI, **flags},
        {"HOME": str(folder), **(environ or {})},
        folder / "clone" / ".env",
        {},
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://mlflow.example.org/", URI),
        ("http://192.0.2.7:8000", "http://192.0.2.7:8000"),
        ("https://site.example.org/mlflow/#/experiments/1", "https://site.example.org/mlflow"),
        ("https://[2001:db8::7]:8443", "https://[2001:db8::7]:8443"),
    ],
)
def test_addresses(tmp_path: Path, given: str, kept: str) -> None:
    assert settings(tmp_path, tracking_uri=given).tracking_uri == kept


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("mlflow.example.org", "Did you mean https://mlflow.example.org"),
        ("ftp://x.example.org", "must be http"),
        ("https://ada:pw@x.example.org", "TRACKING_PASSWORD"),
        ("https://", "must be"),
        ("https://x:y", "must be"),
        ("https://x.example.org/?a=b", "must be"),
    ],
)
def test_no_addresses(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        settings(tmp_path, tracking_uri=given)
    assert "pw" not in caught.value.message.replace("TRACKING_PASSWORD", "")


def test_warnings(tmp_path: Path) -> None:
    assert not settings(tmp_path, tracking_username="ada").warnings
    assert "unencrypted" in settings(tmp_path, tracking_uri="http://x.example.org", tracking_username="ada").warnings[0]
    assert not settings(tmp_path, tracking_uri="http://x.example.org").warnings
    unused = settings(tmp_path, {"TRACKBED_TRACKING_TOKEN": "t"}, tracking_uri="")
    assert "TRACKING_TOKEN" in unused.warnings[0]
    with pytest.raises(SettingError, match="TRACKING_TOKEN"):
        settings(tmp_path, {"TRACKBED_TRACKING_TOKEN": "t"}, tracking_username="ada")


def test_secrets_are_bound_to_their_server(tmp_path: Path) -> None:
    first = settings(tmp_path, {"TRACKBED_TRACKING_PASSWORD": "pa$s w".replace(" ", "'")}, tracking_username="ada")
    created = credentials.ensure(first)
    assert created.names == ("JUPYTER_TOKEN", "TRACKING_PASSWORD") and created["TRACKING_PASSWORD"] == "pa$s'w"
    again = settings(tmp_path, tracking_username="ada")
    assert credentials.ensure(again)["TRACKING_PASSWORD"] == "pa$s'w"
    other = settings(tmp_path, tracking_username="ada", tracking_uri="https://other.example.org")
    with pytest.raises(TrackbedError, match="TRACKING_PASSWORD of ada at https://other.example.org is missing"):
        credentials.ensure(other)
    bare = credentials.ensure(settings(tmp_path))
    assert bare["TRACKING_TOKEN"] == "" and bare.hide("abc") == "abc"
    credentials.forget(again)
    assert not (again.folder / credentials.FOLDER).exists()


def test_files_of_the_notebook(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    result = settings(tmp_path, tracking_username="ada", tracking_ca=str(ca))
    files = {f.path: f for f in container_secrets.secret_files(deployed(result, "minio"))}
    assert files["tracking-username"].template == "ada" and files["tracking-token"].template == ""
    assert files["tracking-password"].names == ("TRACKING_PASSWORD",) and files["tracking-password"].mode == 0o400
    assert files["tracking-ca.pem"].template == ca.read_text()
    assert (
        {f.volume for f in files.values()}
        == {"trackbed_secrets-jupyter"}
        == {v.name for v in compose_model.volumes(deployed(result, "minio"))}
    )
    environment = remote_tracking.environment(result, "/run/secrets")
    assert environment["MLFLOW_TRACKING_SERVER_CERT_PATH"] == "/run/secrets/tracking-ca.pem"
    assert "ada" not in environment.values()
    bare = {f.path: f.template for f in container_secrets.secret_files(deployed(settings(tmp_path), "minio"))}
    assert bare["tracking-username"] == bare["tracking-password"] == ""
    assert bare["tracking-token"] == "{TRACKING_TOKEN}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("hello", "PEM form"),
        ("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----", "private key"),
    ],
)
def test_a_file_that_is_no_certificate(tmp_path: Path, text: str | None, said: str) -> None:
    ca = tmp_path / "ca.pem"
    if text is not None:
        ca.write_text(text)
    with pytest.raises(SettingError, match=said):
        remote_tracking.authority(settings(tmp_path, tracking_ca=str(ca)))


def test_localhost_is_the_container_itself(tmp_path: Path) -> None:
    result = settings(tmp_path, tracking_uri="http://localhost:8000")
    with pytest.raises(SettingError, match="the container itself"):
        remote_tracking.check_address(result, own_loopback=True)
    remote_tracking.check_address(result, own_loopback=False)


def plugin() -> Any:
    return module_at(clone.NOTEBOOK_PACKAGE / "login.py")


def test_login_goes_to_its_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = plugin()
    monkeypatch.setenv("TRACKBED_TRACKING_SECRETS", str(tmp_path))
    monkeypatch.setenv("TRACKBED_SERVER_URI", URI + "/mlflow")

    def header(url: str, **sent: str) -> str:
        request = SimpleNamespace(url=url, headers=dict(sent))
        return str(login.Login().get_auth()(request).headers.get("Authorization", ""))

    assert header(URI) == ""
    (tmp_path / "tracking-username").write_text("ada")
    (tmp_path / "tracking-password").write_text("p:w")
    basic = "Basic " + base64.b64encode(b"ada:p:w").decode()
    assert login.Login().get_name() == remote_tracking.PLUGIN
    assert header(f"{URI}/api") == header("https://mlflow.example.org:443/x") == basic
    for other in (
        "http://mlflow.example.org/api",
        "https://mlflow.example.org:8443/",
        "https://example.org/",
        "https://mlflow.example.org.evil.example/",
    ):
        assert header(other) == "", other
    assert header(URI, Authorization="Basic own") == "Basic own"
    (tmp_path / "tracking-token").write_text("t0k")
    assert header(URI) == "Bearer t0k"


@pytest.mark.parametrize(
    ("text", "said", "final"),
    [
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1)",
            "an authority that is not known here",
            True,
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, certificate is not valid for 'x'",
            "another name than mlflow.example.org",
            True,
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1)",
            "expired",
            True,
        ),
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Missing Authority Key Identifier (_ssl.c:1)",
            "missing authority key identifier",
            True,
        ),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not speak TLS", True),
        ("Failed to resolve 'mlflow.example.org'", "does not resolve", False),
        ("[Errno 111] Connection refused", "refuses the connection", False),
        ("Connection to x timed out. (connect timeout=8)", "no connection", False),
    ],
)
def test_what_an_error_means(text: str, said: str, final: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH", raising=False)
    result = tracking_server.of_error(OSError(text), URI)
    assert said in result["problem"] and result["final"] is final and result["fix"]


@pytest.mark.parametrize(
    ("status", "body", "login", "said", "final"),
    [
        (200, '{"experiments": []}', True, "", False),
        (200, "<html>", True, "a page", True),
        (401, "", False, "wants a login", True),
        (401, "", True, "does not accept the login", True),
        (403, "Invalid Host header", False, "name it is called by", True),
        (403, "no", False, "forbids", True),
        (404, "", False, "no MLflow at this address", True),
        (407, "", False, "proxy", True),
        (503, "starting", False, "HTTP 503 starting", False),
    ],
)
def test_what_an_answer_means(status: int, body: str, login: bool, said: str, final: bool) -> None:
    result = tracking_server.of_status(status, body, login)
    assert said in result["problem"] and bool(result["problem"]) is bool(said) and result["final"] is final


class Notebook:
    """An engine whose notebook gives one answer."""

    def __init__(self, answer: dict[str, Any] | str, folder: Path) -> None:
        self.answer = answer if isinstance(answer, str) else json.dumps(answer) + "\n"
        self.settings = settings(folder)

    def exec(self, service: str, argv: tuple[str, ...], stdin: bytes | None = None, timeout: float = 0) -> ExecResult:
        assert service == JUPYTER and argv == ("python", "-") and stdin
        return ExecResult(0, self.answer, "")


def test_probe_ends_at_once_or_after_its_patience(tmp_path: Path) -> None:
    def ask(answer: dict[str, Any] | str, patience: float = 30) -> str:
        return remote_server.ServerAnswers(patience)(cast(Engine, Notebook(answer, tmp_path)))

    assert ask(tracking_server.answer("")) == ""
    assert ask(tracking_server.answer("refuses")) == "the tracking server refuses"
    assert "Killed" in ask("Killed")
    with pytest.raises(TrackbedError, match=f"from inside it {URI} refuses"):
        ask(tracking_server.answer("refuses", "look"), patience=-1)
    with pytest.raises(TrackbedError) as caught:
        ask(tracking_server.answer("wants a login (401)", "put it into .env", True))
    assert "put it into .env" in caught.value.hint


def test_who_is_asked() -> None:
    assert len(readiness.probes((JUPYTER, MLFLOW), False)[JUPYTER]) == 1
    assert len(readiness.probes((JUPYTER, remote_server.NAME), False)[JUPYTER]) == 2


def test_the_plan_is_the_notebook_alone(tmp_path: Path) -> None:
    from helpers.engines.embedded.engine import EmbeddedEngine

    engine = EmbeddedEngine(project(tmp_path, tracking_uri=URI, gpu="none", engine="embedded"))
    plan = engine.plan()
    assert plan.names == (JUPYTER,) and plan.service(JUPYTER).environment["MLFLOW_TRACKING_URI"] == URI
    assert plan.service(JUPYTER).environment["TRACKBED_BROWSER_URL"] == URI


@pytest.mark.parametrize(("token", "status"), [("t0k", 200), ("", 401)])
def test_the_server_is_asked_with_the_login_that_mlflow_would_send(tmp_path: Path, token: str, status: int) -> None:
    """The plugin is found by its entry point, so that the notebook's image may be of another version."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == "Bearer t0k"
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: object) -> None: ...

    if token:
        (tmp_path / "tracking-token").write_text(token)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_address[1]}"
        done = subprocess.run(
            [sys.executable, str(clone.ROOT / "helpers" / "probes" / "tracking_server.py")],
            env={
                "PYTHONPATH": str(clone.JUPYTER_FOLDER),
                "NO_PROXY": "*",
                "MLFLOW_TRACKING_URI": uri,
                "TRACKBED_SERVER_URI": uri,
                "MLFLOW_TRACKING_AUTH": remote_tracking.PLUGIN,
                "TRACKBED_TRACKING_SECRETS": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        server.shutdown()
    assert json.loads(done.stdout)["problem"] == ("" if status == 200 else "wants a login (401)")
