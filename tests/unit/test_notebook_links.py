"""The links MLflow prints in the notebook, with stand-ins for MLflow's own modules."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from helpers import clone
from tests.unit.fakes import module_at

CLIENT = "mlflow.tracking._tracking_service.client"
EVALUATION = "mlflow.genai.utils.display_utils"


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TRACKBED_SERVER_URI", "http://mlflow:8000")
    monkeypatch.setenv("TRACKBED_BROWSER_URL", "http://localhost:8000/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    return module_at(clone.NOTEBOOK_PACKAGE / "ui_links.py")


class RestStore:
    def __init__(self, host: str, tags: dict[str, str] | None = None) -> None:
        self.host, self.tags = host, tags or {}

    def get_host_creds(self) -> SimpleNamespace:
        return SimpleNamespace(host=self.host)

    def get_run(self, run_id: str) -> SimpleNamespace:
        if run_id == "gone":
            raise RuntimeError("503")
        return SimpleNamespace(
            info=SimpleNamespace(run_name="fawn", experiment_id="7"), data=SimpleNamespace(tags=self.tags)
        )


def client_module(**more: Any) -> Any:
    """A new one each time: wrapping changes the class."""

    class TrackingServiceClient:
        def __init__(self, store: Any, uri: str = "http://mlflow:8000") -> None:
            self.store, self.tracking_uri = store, uri

        def _log_url(self, run_id: str) -> None:
            sys.stdout.write("MLflow's own\n")

    module = ModuleType(CLIENT)
    module.__dict__.update(RestStore=RestStore, TrackingServiceClient=TrackingServiceClient, **more)
    return module


def printed(
    links: Any,
    module: Any,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: str = "abc",
    uri: str = "http://mlflow:8000",
) -> str:
    monkeypatch.setitem(sys.modules, CLIENT, module)
    provider = links.UILinks()
    assert provider.in_context() is False and provider.request_headers() == {}
    provider.in_context()  # asked at every request
    module.TrackingServiceClient(store, uri)._log_url(run)
    return capsys.readouterr().out


LINES = "🏃 View run fawn at: {0}/#/experiments/7/runs/abc{1}\n🧪 View experiment at: {0}/#/experiments/7{1}\n"


@pytest.mark.parametrize(
    ("store", "more", "expected"),
    [
        (RestStore("http://mlflow:8000"), {}, LINES.format("http://localhost:8000", "?workflowType=machine_learning")),
        (RestStore("http://mlflow:8000/"), {}, LINES.format("http://localhost:8000", "?workflowType=machine_learning")),
        (RestStore("http://other:5000"), {}, LINES.format("http://other:5000", "?workflowType=machine_learning")),
        (RestStore("http://mlflow:80001"), {}, LINES.format("http://mlflow:80001", "?workflowType=machine_learning")),
        (
            RestStore("http://mlflow:8000"),
            {"get_request_workspace": lambda: "a b"},
            LINES.format("http://localhost:8000", "?workflowType=machine_learning&workspace=a%20b"),
        ),
        (
            RestStore("http://mlflow:8000"),
            {"get_request_workspace": lambda: "default"},
            LINES.format("http://localhost:8000", "?workflowType=machine_learning"),
        ),
        (RestStore("http://mlflow:8000", {"mlflow.runType": "genai_evaluate"}), {}, ""),
        (object(), {}, ""),
    ],
)
def test_the_two_lines(
    links: Any,
    store: Any,
    more: dict[str, Any],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert printed(links, client_module(**more), store, monkeypatch, capsys) == expected


def test_a_link_never_fails_a_run(
    links: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = RestStore("http://mlflow:8000")
    assert printed(links, client_module(), store, monkeypatch, capsys, run="gone") == ""


def test_without_an_address_mlflow_is_left_as_it_is(
    links: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKBED_BROWSER_URL", "")
    out = printed(links, client_module(), RestStore("http://mlflow:8000"), monkeypatch, capsys)
    assert out == "MLflow's own\n"


def test_another_mlflow_is_left_as_it_is(links: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, CLIENT, ModuleType(CLIENT))
    assert links.UILinks().in_context() is False


def test_evaluation_results(links: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType(EVALUATION)
    module._resolve_evaluation_results_url = lambda store, run: f"{store}/#/experiments/7/evaluation-runs"
    monkeypatch.setitem(sys.modules, EVALUATION, module)
    links.UILinks().in_context()
    assert module._resolve_evaluation_results_url("http://mlflow:8000", None).startswith("http://localhost:8000/#/")
    assert module._resolve_evaluation_results_url("http://other:1", None).startswith("http://other:1/#/")


def test_mlflow_finds_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(clone.JUPYTER_FOLDER))
    result = importlib.metadata.entry_points(group="mlflow.request_header_provider")
    assert "trackbed_notebook.ui_links:UILinks" in {entry.value for entry in result}


def test_no_logged_model_will_ask_for_it() -> None:
    """MLflow infers a model's requirements from the files of installed packages: ours lists none."""
    distribution = importlib.metadata.PathDistribution(clone.JUPYTER_FOLDER / "trackbed_notebook-1.0.dist-info")
    assert not distribution.files
    assert distribution.read_text("top_level.txt") is None
