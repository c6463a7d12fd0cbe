"""The points of a chart for all its runs in one statement, where MLflow asks twice for each run.

MLflow puts a run's values of the metric into ``most`` buckets of equal size, in their order, and takes the first value
of each bucket. The last value of all stands in for the last bucket's first one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from inspect import signature
from math import nan
from typing import Any

from mlflow.entities import Metric  # type: ignore[import-not-found]
from mlflow.entities.metric import MetricWithRunId  # type: ignore[import-not-found]
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # type: ignore[import-not-found]
from sqlalchemy import text

POINTS = """
SELECT run_uuid, value, timestamp, step, is_nan FROM (
    SELECT run_uuid, value, timestamp, step, is_nan, row_number() OVER run - 1 AS place,
           count(*) OVER (PARTITION BY run_uuid) AS amount
    FROM metrics
    WHERE run_uuid = {those} AND key = :key {steps}
    WINDOW run AS (PARTITION BY run_uuid ORDER BY step, timestamp, value, is_nan)
) placed
WHERE CASE
    WHEN amount <= :most THEN true
    WHEN place >= amount - amount / :most THEN place = amount - 1  -- the last bucket
    WHEN place < amount % :most * (amount / :most + 1) THEN place % (amount / :most + 1) = 0  -- those of one value more
    ELSE (place - amount % :most) % (amount / :most) = 0
END
ORDER BY run_uuid, place
"""
# PostgreSQL takes run and key for independent. Where it knows which runs are asked for, and their values are many, it
# reads what all runs have of the key.
ONE, MANY = "(SELECT unnest(:runs))", "ANY(ARRAY(SELECT unnest(CAST(:runs AS varchar[]))))"
STEPS = "AND step BETWEEN :start AND :end"
WORDS = ["self", "run_ids", "metric_key", "max_results", "start_step", "end_step"]


def check() -> None:
    """AttributeError where MLflow's charts are not built as this expects."""
    if list(signature(SqlAlchemyStore.get_metric_history_bulk_interval).parameters) != WORDS:
        raise AttributeError("get_metric_history_bulk_interval takes other words")
    parts = ["self", "session", "run_id", "metric_key", "max_results", "start_step", "end_step"]
    if list(signature(SqlAlchemyStore._sample_metric_history_single_run).parameters) != parts:
        raise AttributeError("_sample_metric_history_single_run takes other words")
    if list(signature(SqlAlchemyStore._supports_window_functions).parameters) != ["self", "session"]:
        raise AttributeError("_supports_window_functions takes other words")
    if list(signature(SqlAlchemyStore._validate_run_accessible).parameters) != ["self", "session", "run_id"]:
        raise AttributeError("_validate_run_accessible takes other words")


def rows(
    session: Any, runs: Sequence[str], key: str, most: int, steps: tuple[int, int] | None
) -> Iterable[Sequence[Any]]:
    """Run, value, timestamp, step, is_nan of up to ``most`` points of each run's metric, those of a run in order."""
    words: dict[str, Any] = {"runs": list(dict.fromkeys(runs)), "key": key, "most": most}
    if steps:
        words |= {"start": steps[0], "end": steps[1]}
    statement = text(POINTS.format(those=ONE if len(words["runs"]) == 1 else MANY, steps=STEPS if steps else ""))
    return session.execute(statement, words)  # type: ignore[no-any-return]


def points(key: str, runs: Sequence[str], found: Iterable[Sequence[Any]]) -> list[Any]:
    """MLflow's entities of these rows, run by run in the order of ``runs``."""
    of: dict[str, list[Any]] = {}
    for run, value, timestamp, step, is_nan in found:
        metric = Metric(key=key, value=nan if is_nan else value, timestamp=timestamp, step=step)
        of.setdefault(run, []).append(MetricWithRunId(run_id=run, metric=metric))
    return [point for run in runs for point in of.get(run, ())]
