"""A running server as a source: what is asked, in which order, with which login, and what its errors are called."""

from __future__ import annotations

import http.server
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from helpers.errors import SettingError, TrackbedError
from helpers.imports import downloads, sources, tracking_server
from helpers.imports.places import Location, Places
from helpers.imports.sources import NOWHERE, PAGES, Source
from helpers.imports.tracking_server import API, API3, PROXY, Login, TrackingServer

URL = "https://mlflow.example.org/team"
Answer = tuple[int, Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], dict[str, list[Answer]]]:
    """What was asked, and what is answered by address: one after the other, the last one again and again."""
    requested: list[Any] = []
    answers: dict[str, list[Answer]] = {}

    def send(session: requests.Session, request: requests.PreparedRequest, **words: Any) -> requests.Response:
        requested.append(request)
        address = str(request.url).partition("?")[0].removeprefix(f"{URL}/")
        given = answers.get(address, [(404, {})])
        status, content = given.pop(0) if len(given) > 1 else given[0]
        if isinstance(content, Exception):
            raise content
        response = requests.Response()
        response.status_code, response.request, response.url = status, request, str(request.url)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        response.raw = io.BytesIO(body)
        return response

    monkeypatch.setattr(requests.Session, "send", send)
    monkeypatch.setattr(tracking_server, "wait_exponential", lambda *words: lambda state: 0)
    return requested, answers


@pytest.mark.parametrize(
    "login, header",
    [
        (Login(), None),
        (Login(token="t\u00f6ken"), "Bearer t\u00f6ken"),
        (Login("ann", "p\u00e4ss:word"), "Basic YW5uOnDDpHNzOndvcmQ="),
    ],
)
def test_the_login_is_in_the_header_and_in_no_text(asked: Any, login: Login, header: str | None) -> None:
    requested, answers = asked
    answers[f"{API}/experiments/search"] = [(401, {})]
    server = TrackingServer(URL, login)
    with pytest.raises(TrackbedError, match="refuses the request") as caught:
        server.check()
    assert requested[0].headers.get("Authorization") == header
    assert tracking_server.TOKEN in (caught.value.hint or "")
    shown = f"{caught.value.message} {caught.value.hint} {login!r} {server}"
    assert "word" not in shown.replace(tracking_server.PASSWORD, "") and "t\u00f6ken" not in shown


def test_a_server_leads_to_no_other_one() -> None:
    """Before, it chose what this machine asked, and what the answer was stored as."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            where = {"/version": f"http://localhost:{self.server.server_port}/secret", "/near": "/version2"}  # type: ignore[attr-defined]
            self.send_response(302 if self.path in where else 200)
            self.send_header("Location", where.get(self.path, ""))
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        server = TrackingServer(f"http://127.0.0.1:{listening.server_port}", Login())
        with pytest.raises(TrackbedError, match="leads to another server, localhost"):
            server.download("version")
        server.download("near").close()
        listening.shutdown()
    assert heard == ["/version", "/near", "/version2"]


def test_a_ca_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="there is no file"):
        Login.of({tracking_server.CA: str(tmp_path / "none.pem")})


def test_an_address_is_taken_without_what_is_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (tracking_server.USERNAME, tracking_server.PASSWORD, tracking_server.TOKEN, tracking_server.CA):
        monkeypatch.delenv(name, raising=False)
    source = sources.source(f"{URL}/")
    assert (source.kind, str(source)) == (PAGES, URL)
    assert str(sources.source("http://[::1]:5000")) == "http://[::1]:5000"


@pytest.mark.parametrize(
    "answer, words",
    [
        ((404, {}), "there is no MLflow at this address"),
        ((200, b"<html>"), "answers with a page instead of data"),
        ((418, {}), "HTTP 418"),
        ((503, {}), "HTTP 503"),
        ((0, requests.exceptions.ConnectionError("refused")), "does not answer: refused"),
        ((0, requests.exceptions.SSLError("unknown authority")), "TLS fails"),
    ],
)
def test_what_a_server_answers_is_told_in_words(asked: Any, answer: Answer, words: str) -> None:
    requested, answers = asked
    answers[f"{API}/experiments/search"] = [answer]
    with pytest.raises(TrackbedError) as caught:
        TrackingServer(URL, Login()).check()
    assert words in caught.value.message and caught.value.hint
    assert len(requested) == (tracking_server.TRIES if "503" in words or "refused" in words else 1)


def fill(answers: dict[str, list[Answer]]) -> None:
    experiments = [{"experiment_id": "1"}, {"experiment_id": "2"}]
    answers[f"{API}/experiments/search"] = [
        (200, {"experiments": experiments[:1], "next_page_token": "more"}),
        (503, {}),
        (200, {"experiments": experiments[1:]}),
    ]
    run = {"info": {"run_id": "r"}, "data": {"metrics": [{"key": "loss"}]}}
    answers[f"{API}/runs/search"] = [(200, {"runs": [run]}), (200, {})]
    answers[f"{API}/metrics/get-history"] = [(200, {"metrics": [1], "next_page_token": "x"}), (200, {"metrics": [2]})]
    stored = {"mlflow.trace.spansLocation": "TRACKING_STORE"}
    answers[f"{API3}/traces/search"] = [(200, {"traces": [{"trace_id": "t", "tags": stored}]}), (200, {})]
    answers[f"{API3}/traces/get"] = [(200, {"trace": {}})]
    answers[f"{API}/registered-models/search"] = [(200, {"registered_models": [{"name": "it's"}]}), (200, {})]
    version = {"version": "1", "source": "models:/m-1"}
    answers[f"{API}/model-versions/search"] = [(200, {"model_versions": [version]})]
    answers[f"{API}/model-versions/get-download-uri"] = [(200, {"artifact_uri": "mlflow-artifacts:/1/models/m-1"})]


def test_everything_is_asked_page_by_page_and_only_read(asked: Any) -> None:
    requested, answers = asked
    fill(answers)
    left: list[str] = []
    pages = [
        (page.path.partition("/")[0], json.load(page.stream))
        for page in tracking_server.files(TrackingServer(URL, Login()), left)
    ]
    assert [kind for kind, _ in pages] == [
        *["experiments"] * 2,
        "runs",
        "metrics",
        "metrics",
        "runs",
        "traces",
        "spans",
        "traces",
        "registered",
        "versions",
        "registered",
        "notes",
    ]
    assert pages[3][1] == {"run_id": "r", "metrics": [1], "next_page_token": "x"}
    assert pages[-1][1]["remarks"] == ["this server has no API for logged models: none come"] and left == []
    version = next(page for kind, page in pages if kind == "versions")["model_versions"][0]
    assert version["storage_location"] == "mlflow-artifacts:/1/models/m-1"
    for request in requested:
        path = str(request.url).partition("?")[0].removeprefix(f"{URL}/")
        assert request.method == "GET" or path in tracking_server.SEARCHES
    assert any("name+%3D+%22it%27s%22" in str(request.url) for request in requested)


def no_bucket(url: str) -> Any:
    raise AssertionError(url)


def run(uri: str, identity: str = "r", known: bool = False, kind: str = "run", needed: bool = False) -> Location:
    return Location(kind, identity, "name", "experiment", uri, uri, f"7/{identity}/artifacts", "", needed, known)


def test_artifacts_come_through_the_proxy_or_by_their_run_or_are_missing(asked: Any) -> None:
    _, answers = asked
    listed = [{"path": "a b.txt", "file_size": "3"}, {"path": "deep", "is_dir": True}]
    answers[PROXY] = [(200, {"files": listed}), (200, {"files": [{"path": "x", "file_size": 2}]})]
    answers[f"{API}/artifacts/list"] = [(200, {"files": [{"path": "model/y", "file_size": 4}]})]
    answers[f"{API}/logged-models/m/artifacts/directories"] = [(200, {"files": [{"path": "z", "file_size": 5}]})]
    answers["ajax-api/2.0/mlflow/get-trace-artifact"] = [(200, b"spans")]
    server = TrackingServer(URL, Login())
    survey = Places(Source(PAGES, NOWHERE, tracking=server), [], no_bucket).survey(
        [
            run("mlflow-artifacts:/1/r/artifacts", known=True),
            run("s3://bucket/1/s", "s"),
            run("mlflow-artifacts://other.example.org/1/o", "o", kind="model"),
            run("s3://bucket/m", "m", kind="model"),
            run("s3://bucket/t", "t", kind="trace"),
            run("s3://bucket/v", "model 1", kind="version", needed=True),
        ]
    )
    assert (survey.objects, survey.size, survey.largest) == (5, 19, 5)
    assert [(folder.target, folder.known) for folder in survey.folders] == [
        ("7/r/artifacts", True),
        ("7/s/artifacts", False),
        ("7/m/artifacts", False),
        ("7/t/artifacts", False),
    ]
    assert [line.partition(": ")[2] for line in survey.missing] == [
        f"{uri} cannot be read through the server"
        for uri in ("mlflow-artifacts://other.example.org/1/o", "s3://bucket/v")
    ]


def test_a_file_is_asked_for_when_it_is_read_and_again_from_the_beginning(asked: Any) -> None:
    requested, answers = asked
    answers[f"{PROXY}/1/r/artifacts/a%20b"] = [(200, b"content")]
    server = TrackingServer(URL, Login())
    folder = downloads.folder(server, "run", "r", "mlflow-artifacts:/1/r/artifacts", "t", False)
    assert folder is not None
    stream = downloads.Lazy(folder, "a b")
    assert requested == []
    assert (stream.read(3), stream.read()) == (b"con", b"tent")
    stream.seek(0)
    assert stream.read(100) == b"content" and len(requested) == 2


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd"])
def test_a_name_that_leads_elsewhere_is_refused(asked: Any, path: str) -> None:
    _, answers = asked
    answers[f"{API}/artifacts/list"] = [(200, {"files": [{"path": path, "file_size": 1}]})]
    folder = downloads.folder(TrackingServer(URL, Login()), "run", "r", "s3://b", "t", False)
    assert folder is not None
    with pytest.raises(TrackbedError, match="lists an artifact of the name"):
        list(folder.files())
