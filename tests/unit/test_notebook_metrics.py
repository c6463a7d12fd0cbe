"""Where the notebook's MLflow measures the machine by itself (docker/jupyter/trackbed_notebook/system_metrics.py)."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from helpers import clone
from helpers.engines import jupyterlab
from tests.unit.fakes import deployed, module_at, project

NAME = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


@pytest.mark.parametrize("psutil", [True, False])
def test_on_where_it_can_be_measured(monkeypatch: pytest.MonkeyPatch, psutil: bool) -> None:
    """A virtual environment without psutil, where MLflow would refuse to start a run."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace() if psutil else None)
    switch = SimpleNamespace(default=False)
    mlflow = ModuleType("mlflow")
    mlflow.environment_variables = SimpleNamespace(**{NAME: switch})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monitor = logging.getLogger("mlflow.system_metrics.system_metrics_monitor")
    monkeypatch.setattr(monitor, "level", logging.NOTSET)
    created = module_at(clone.NOTEBOOK_PACKAGE / "system_metrics.py").SystemMetrics()
    assert switch.default is psutil
    assert monitor.level == (logging.WARNING if psutil else logging.NOTSET)
    assert not created.in_context() and created.tags() == {}


def test_an_mlflow_that_is_built_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = ModuleType("mlflow")
    mlflow.environment_variables = SimpleNamespace()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    module_at(clone.NOTEBOOK_PACKAGE / "system_metrics.py")


def test_no_process_is_told_by_a_variable_that_it_inherits(tmp_path: Path) -> None:
    """An image of the user's own is told as ever: it may lack the plugin."""
    for image, said in (("", None), ("theirs:1", "true")):
        given = {"jupyter_image": image} if image else {}
        deployment = deployed(project(tmp_path, **given).settings)
        assert jupyterlab.environment(deployment, "http://mlflow:8000", "/startup").get(NAME) == said


def test_mlflow_finds_it() -> None:
    text = (clone.JUPYTER_FOLDER / "trackbed_notebook-1.0.dist-info" / "entry_points.txt").read_text()
    assert "[mlflow.run_context_provider]\ntrackbed_metrics = trackbed_notebook.system_metrics:SystemMetrics\n" in text
