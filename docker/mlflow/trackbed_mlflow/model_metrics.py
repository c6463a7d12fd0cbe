"""A model's metric that is NaN: MLflow 3.17 stores it as 0, so that a model that diverged has the lowest loss.

Here it is stored as what it is, comes last in either order and fits to no condition, as with runs.
"""

from __future__ import annotations

import functools
import math
import types
from typing import Any

from trackbed_mlflow.errors import say

SEARCHES = ("_apply_order_by_search_logged_models", "_apply_filter_string_datasets_search_logged_models")
ROW = "SqlLoggedModelMetric"  # the class of its rows, as the searches know it


class Storing:
    """A store whose NaN is not made 0, for the time of one call."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def sanitize_metric_value(self, value: float) -> tuple[bool, float]:
        is_nan, stored = self._store.sanitize_metric_value(value)
        return is_nan, math.nan if is_nan else stored


class Comparing:
    """The rows' class for searches: PostgreSQL takes NaN for the greatest number, NULL is none."""

    def __init__(self, row: Any, value: Any) -> None:
        self._row, self.metric_value = row, value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._row, name)


def keep_nan(store: Any, value: Any = None) -> None:
    """Change a tracking store's class. Where MLflow is built otherwise, it stays as it is.

    ``value``: what the searches compare instead of the column.
    """
    try:
        logged, searches = store._log_model_metrics, [getattr(store, name) for name in SEARCHES]
        rows = {search.__globals__[ROW] for search in searches}
        (row,) = rows
        entity = row.to_mlflow_entity
        if value is None:
            import sqlalchemy

            value = sqlalchemy.func.nullif(row.metric_value, sqlalchemy.cast("NaN", sqlalchemy.Float(53)))
            value = value.label("metric_value")
    except (AttributeError, KeyError, ValueError) as error:
        say(f"NaN metrics of models are stored as 0: {error!r}")
        return

    @functools.wraps(logged)
    def log(self: Any, *words: Any, **named: Any) -> Any:
        return logged(Storing(self), *words, **named)

    @functools.wraps(entity)
    def to_mlflow_entity(self: Any) -> Any:
        result = entity(self)
        if result.value is not None and math.isnan(result.value):
            result._value = math.nan  # one object: MLflow compares a repeated metric with the one that is there
        return result

    store._log_model_metrics, row.to_mlflow_entity = log, to_mlflow_entity
    for name, search in zip(SEARCHES, searches, strict=True):
        changed = types.FunctionType(
            search.__code__,
            {**search.__globals__, ROW: Comparing(row, value)},
            name,
            search.__defaults__,
            search.__closure__,
        )
        changed.__kwdefaults__ = search.__kwdefaults__
        setattr(store, name, changed)
