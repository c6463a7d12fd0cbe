"""How a run ends whose kernel ends first (docker/jupyter/trackbed_notebook/run_status.py), with stand-ins for IPython."""

from __future__ import annotations

import atexit
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from helpers import clone
from tests.unit.fakes import module_at


class Fluent(ModuleType):
    """One open run inside another."""

    def __init__(self) -> None:
        super().__init__("mlflow.tracking.fluent")
        self.open, self.ended = ["outer", "inner"], list[tuple[str, str]]()

    def active_run(self) -> str | None:
        return self.open[-1] if self.open else None

    def end_run(self, status: str) -> None:
        self.ended.append((self.open.pop(), status))


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return []


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, cells: list[Any]) -> Any:
    shell = SimpleNamespace(events=SimpleNamespace(register=lambda _, call: cells.append(call)))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "mlflow.tracking.fluent", Fluent())
    monkeypatch.setattr(atexit, "register", lambda call: None)
    created = module_at(clone.NOTEBOOK_PACKAGE / "run_status.py").RunStatus()
    assert not created.in_context() and not created.in_context() and len(cells) == 1
    return created


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([KeyboardInterrupt()], "KILLED"),
        ([ValueError()], "FAILED"),
        ([None, KeyboardInterrupt()], "KILLED"),
        ([None], ""),
        ([KeyboardInterrupt(), None], ""),
        ([], ""),
    ],
)
def test_an_open_run_ends_as_its_last_cell_did(
    runs: Any, cells: list[Any], errors: list[BaseException | None], status: str
) -> None:
    for error in errors:
        cells[0](SimpleNamespace(error_in_exec=error))
    runs.end()
    assert sys.modules["mlflow.tracking.fluent"].ended == ([("inner", status), ("outer", status)] if status else [])


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), "KILLED"), (ValueError(), "FAILED"), (None, "")])
@pytest.mark.parametrize("module", [None, SimpleNamespace(get_ipython=lambda: None)])
def test_an_open_run_ends_as_its_script_did(
    monkeypatch: pytest.MonkeyPatch, error: BaseException | None, status: str, module: Any
) -> None:
    shown: list[Any] = []
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "mlflow.tracking.fluent", Fluent())
    monkeypatch.setattr(atexit, "register", lambda call: None)
    monkeypatch.setattr(sys, "excepthook", lambda *words: shown.append(words[1]))
    created = module_at(clone.NOTEBOOK_PACKAGE / "run_status.py").RunStatus()
    assert not created.in_context()
    if error is not None:
        sys.excepthook(type(error), error, None)
        assert shown == [error]
    created.end()
    assert sys.modules["mlflow.tracking.fluent"].ended == ([("inner", status), ("outer", status)] if status else [])


def test_an_error_at_pythons_prompt_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(atexit, "register", lambda call: None)
    hook = sys.excepthook
    assert not module_at(clone.NOTEBOOK_PACKAGE / "run_status.py").RunStatus().in_context() and sys.excepthook is hook


def test_mlflow_finds_it() -> None:
    text = (clone.JUPYTER_FOLDER / "trackbed_notebook-1.0.dist-info" / "entry_points.txt").read_text()
    assert "trackbed_runs = trackbed_notebook.run_status:RunStatus" in text.split("[mlflow.request_auth_provider]")[0]
