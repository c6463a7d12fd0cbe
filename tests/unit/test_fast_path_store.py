"""Where MLflow is not what the fast path was written for: its own way stays, and the server says why.

That both ways do the same is tested with a database: tests/integration/test_fast_path.py.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import errors, fast_path
from trackbed_mlflow.fast_path import store

from helpers.clone import MLFLOW_FOLDER
from tests.unit.fakes import trackbed_mlflow


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An MLflow that has its own store and nothing that the fast path is made of."""
    monkeypatch.setattr(fast_path, "fallbacks", {})
    monkeypatch.delenv(fast_path.SWITCH, raising=False)
    modules: dict[str, Any] = {
        name: ModuleType(name) for name in ("mlflow", "mlflow.version", "mlflow.server", "mlflow.server.handlers")
    }
    modules["mlflow.version"].VERSION = fast_path.WRITTEN_FOR
    own = SimpleNamespace(_get_sqlalchemy_store=lambda store_uri, artifact_uri: (store_uri, artifact_uri))
    modules["mlflow.server.handlers"].TrackingStoreRegistryWrapper = own
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return modules["mlflow.version"]


def test_what_is_missing_is_told_and_the_own_store_stays(mlflow: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert store.create("postgresql://x", "/artifacts") == ("postgresql://x", "/artifacts")
    assert "environment_variables" in fast_path.fallbacks["tracking store"]
    assert "MLflow's own way is used for the tracking store" in capsys.readouterr().err


def test_another_mlflow_is_left_alone(mlflow: Any) -> None:
    mlflow.VERSION = "4.0.0"
    assert store.create("postgresql://x") == ("postgresql://x", None)
    assert set(fast_path.fallbacks) == set(fast_path.PARTS)
    assert "MLflow 4.0.0" in fast_path.fallbacks["JSON requests"]


def test_off_touches_nothing(mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fast_path.SWITCH, "off")
    assert not fast_path.usable() and store.create("postgresql://x") == ("postgresql://x", None)
    assert fast_path.fallbacks == {}


def test_the_server_refuses_another_word() -> None:
    with pytest.raises(errors.Stop, match="TRACKBED_FAST_PATH=on: auto or off is expected"):
        fast_path.enabled({fast_path.SWITCH: "on"})


def test_the_locked_mlflow_is_the_one_that_it_is_compared_with() -> None:
    """Another release: run tests/integration/test_fast_path.py, then change WRITTEN_FOR."""
    lock = (MLFLOW_FOLDER / "requirements.txt").read_text()
    assert re.findall(r"^mlflow==(\S+)", lock, re.MULTILINE) == [fast_path.WRITTEN_FOR]


def test_mlflow_finds_its_plugins() -> None:
    (folder,) = MLFLOW_FOLDER.glob("trackbed_mlflow-*.dist-info")
    result = {(entry.group, entry.name): entry.load() for entry in PathDistribution(folder).entry_points}
    assert set(result) == {("mlflow.app", "trackbed"), ("mlflow.tracking_store", "postgresql")}
    assert result["mlflow.tracking_store", "postgresql"] is store.create


def test_what_the_server_left_is_what_the_command_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fast_path, "fallbacks", {"JSON requests": "why"})
    monkeypatch.setattr(fast_path, "limited", {"search processes": "MEMORY_LIMIT=3g"})
    fast_path.write_state({"TRACKBED_OWN_TMP": str(tmp_path)})
    done = trackbed_mlflow("fast-path", TRACKBED_OWN_TMP=str(tmp_path))
    assert json.loads(done.stdout) == {
        "enabled": True,
        "fallbacks": {"JSON requests": "why"},
        "limited": {"search processes": "MEMORY_LIMIT=3g"},
    }
    assert [path.name for path in tmp_path.iterdir()] == [fast_path.STATE]
    assert trackbed_mlflow("fast-path", TRACKBED_OWN_TMP=str(tmp_path / "none")).returncode == 1


def test_a_server_without_a_folder_of_its_own_leaves_and_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a shared folder the file, or a link in its place, may be anybody's."""
    touched: list[Path] = []

    def touch(path: Path, *_: object) -> str:
        touched.append(path)
        return "{}"

    for name in ("write_text", "read_text", "replace"):
        monkeypatch.setattr(Path, name, touch)
    for environment in ({}, {"TRACKBED_OWN_TMP": ""}):
        fast_path.write_state(environment)
        with pytest.raises(errors.Stop, match="TRACKBED_OWN_TMP names no folder"):
            fast_path.read_state(environment)
    assert not touched
