"""What PostgreSQL is asked for the points of a chart."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

MODULE = "trackbed_mlflow.fast_path.charts"
FOREIGN: dict[str, dict[str, object]] = {
    "mlflow": {},
    "mlflow.entities": {"Metric": SimpleNamespace},
    "mlflow.entities.metric": {"MetricWithRunId": SimpleNamespace},
    "mlflow.store": {},
    "mlflow.store.tracking": {},
    "mlflow.store.tracking.sqlalchemy_store": {"SqlAlchemyStore": object},
    "sqlalchemy": {"text": str},
}


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module without MLflow."""
    for name, members in FOREIGN.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (["a"], "run_uuid = (SELECT unnest(:runs)) AND"),
        (["a", "a"], "run_uuid = (SELECT unnest(:runs)) AND"),  # a run twice is one run
        (["a", "b"], "run_uuid = ANY(:runs) AND"),
        ([], "run_uuid = ANY(:runs) AND"),
    ],
)
def test_one_run_is_planned_without_knowing_which(charts: Any, runs: list[str], expected: str) -> None:
    asked: list[str] = []

    def execute(statement: str, words: dict[str, Any]) -> list[tuple[object, ...]]:
        asked.append(statement)
        return [(run, 0.5, 1, 2, False) for run in words["runs"]]

    points = charts.points(SimpleNamespace(execute=execute), runs, "loss", 320, None)
    assert [point.run_id for point in points] == runs
    assert len(asked) == 1 and expected in asked[0]
