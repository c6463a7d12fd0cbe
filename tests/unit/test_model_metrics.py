"""NaN metrics of models (trackbed_mlflow/model_metrics.py), with a store that is built as MLflow's."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import model_metrics


class SqlLoggedModelMetric:
    metric_value = "column"
    metric_name = "name"

    def __init__(self, value: float | None) -> None:
        self.value = value

    def to_mlflow_entity(self) -> Any:
        return SimpleNamespace(value=self.value, _value=self.value)


def made() -> Any:
    class Store:
        def __init__(self) -> None:
            self.logged: list[Any] = []

        def sanitize_metric_value(self, value: float) -> tuple[bool, float]:
            return math.isnan(value), 0.0 if math.isnan(value) else value

        def _log_model_metrics(self, run_id: str, metrics: list[float], experiment_id: str) -> None:
            self.logged += [self.sanitize_metric_value(value) for value in metrics]

        def _apply_order_by_search_logged_models(self, models: Any, session: Any, order_by: Any = None) -> Any:
            return SqlLoggedModelMetric.metric_value, SqlLoggedModelMetric.metric_name, order_by

        def _apply_filter_string_datasets_search_logged_models(self, models: Any, *, more: Any = 3) -> Any:
            return SqlLoggedModelMetric.metric_value, more

    return Store


def test_nan_is_stored_and_other_numbers_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqlLoggedModelMetric, "to_mlflow_entity", SqlLoggedModelMetric.to_mlflow_entity)
    store = made()
    model_metrics.keep_nan(store, value="compared")
    one = store()
    one._log_model_metrics("r", [0.5, math.nan], experiment_id="1")
    assert one.logged[0] == (False, 0.5) and one.logged[1][0] and math.isnan(one.logged[1][1])
    assert one.sanitize_metric_value(math.nan) == (True, 0.0)  # of a run: beside is_nan
    assert SqlLoggedModelMetric(float("nan")).to_mlflow_entity()._value is math.nan
    assert one._apply_order_by_search_logged_models(1, 2) == ("compared", "name", None)
    assert one._apply_filter_string_datasets_search_logged_models(1) == ("compared", 3)


def test_another_mlflow_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    store = made()
    del store._apply_order_by_search_logged_models
    logged = store._log_model_metrics
    model_metrics.keep_nan(store, value="compared")
    assert store._log_model_metrics is logged and "are stored as 0" in capsys.readouterr().err
