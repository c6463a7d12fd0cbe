"""What PostgreSQL is asked for the points of a chart, and the text that its points become."""

from __future__ import annotations

import importlib
import json
import sys
from math import inf, nan
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow.fast_path import chart_answers
from trackbed_mlflow.fast_path.json_answers import finite

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
        (["a", "b"], "run_uuid = ANY(ARRAY(SELECT unnest(CAST(:runs AS varchar[])))) AND"),
        ([], "run_uuid = ANY(ARRAY(SELECT unnest(CAST(:runs AS varchar[])))) AND"),
    ],
)
def test_it_is_planned_without_knowing_which_runs(charts: Any, runs: list[str], expected: str) -> None:
    asked: list[str] = []

    def execute(statement: str, words: dict[str, Any]) -> list[tuple[object, ...]]:
        asked.append(statement)
        return [(run, 0.5, 1, 2, False) for run in words["runs"]]

    found = charts.rows(SimpleNamespace(execute=execute), runs, "loss", 320, None)
    assert [point.run_id for point in charts.points("loss", runs, found)] == runs
    assert len(asked) == 1 and expected in asked[0]


ROWS = [
    ("a", value, 1_700_000_000_000 + place, place - 1, is_nan)
    for place, (value, is_nan) in enumerate(
        ((0.1, False), (3.0, False), (-0.0, False), (1e16, False), (1e-5, False), (5e-324, False), (0.0, True))
    )
] + [("b", inf, 0, -(2**63), False), ("b", -inf, 0, 2**63 - 1, False), ("b", nan, 0, 0, False)]


def as_mlflow_does(key: str, runs: list[str]) -> str:
    points = [
        {"key": key, "value": finite(nan if is_nan else value), "timestamp": at, "step": step, "run_id": run}
        for wanted in runs
        for run, value, at, step, is_nan in ROWS
        if run == wanted
    ]
    return json.dumps({"metrics": points} if points else {}, indent=2)


def test_a_runs_id_may_be_any_text() -> None:
    run = 'a "quote" \u20ac \\'
    answer = json.loads(chart_answers.written("loss", [run], [(run, 0.5, 1, 2, False)]).text)
    assert answer == {"metrics": [{"key": "loss", "value": 0.5, "timestamp": 1, "step": 2, "run_id": run}]}


@pytest.mark.parametrize("runs", [["b", "a"], ["a", "a"], ["none"], []])
@pytest.mark.parametrize("key", ["loss", 'a "quote" \u20ac \\'])
def test_the_text_is_what_mlflow_writes_of_these_points(runs: list[str], key: str) -> None:
    assert chart_answers.written(key, runs, ROWS).text == as_mlflow_does(key, runs)


def handlers_at(path: str) -> Any:
    """MLflow's handlers, as far as they matter here, in a request to ``path``."""

    def store() -> list[str]:
        if chart_answers.wanted.get():
            raise chart_answers.written("loss", ["a"], ROWS)
        return ["points"]

    def impl(request_message: object) -> list[str]:
        return store()

    return SimpleNamespace(
        request=SimpleNamespace(path=path),
        get_metric_history_bulk_interval_impl=impl,
        message_to_json=lambda message, **words: f"{message} {words}",
    )


def test_text_is_for_the_rest_api_alone() -> None:
    for path, expected in (
        ("/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", as_mlflow_does("loss", ["a"])),
        ("/graphql", "['points'] {}"),
    ):
        handlers = handlers_at(path)
        chart_answers.replace(handlers)
        answer = handlers.get_metric_history_bulk_interval_impl("words")
        assert handlers.message_to_json(answer) == expected
        assert not chart_answers.wanted.get()


def test_an_answer_goes_as_soon_as_it_is_sent() -> None:
    handlers = handlers_at(chart_answers.PATH)
    chart_answers.replace(handlers)
    answer = handlers.get_metric_history_bulk_interval_impl("words")
    assert answer.__traceback__ is None, "with the frames of the store it is a circle, which waits for the collector"


def test_a_handler_that_takes_other_words_stays() -> None:
    handlers = handlers_at("/graphql")
    handlers.get_metric_history_bulk_interval_impl = own = lambda message, more: None
    with pytest.raises(AttributeError, match="other words"):
        chart_answers.replace(handlers)
    assert handlers.get_metric_history_bulk_interval_impl is own
