"""MLflow's tracking store for PostgreSQL in fewer steps: the same rows and the same answers."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from typing import Any

from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES  # type: ignore[import-not-found]
from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR  # type: ignore[import-not-found]
from mlflow.store.db.utils import _get_routing_session_maker  # type: ignore[import-not-found]
from mlflow.store.tracking.dbmodels.models import (  # type: ignore[import-not-found]
    SqlLatestMetric,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore, _validate_metric  # type: ignore[import-not-found]
from sqlalchemy import event, inspect, make_url, text
from sqlalchemy.orm import sessionmaker
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.interfaces import UserDefinedOption

from trackbed_mlflow.fast_path import chart_answers, charts, pages

PARTS = ("latest_metrics", "params", "tags")  # of a run, as MLflow loads them with it
TOGETHER = 500  # runs whose parts are asked for at once
COLUMNS = {"key", "value", "timestamp", "step", "is_nan", "run_uuid"}  # of LOG_METRICS' two tables

# All metrics of a request, and what they make the latest values, in one statement. Keys in order: two requests never
# wait for each other in a circle. A repeated value is left alone, as MLflow does.
LOG_METRICS = """
WITH given AS (
    SELECT * FROM unnest(CAST(:keys AS varchar[]), CAST(:values AS float8[]), CAST(:timestamps AS bigint[]),
                         CAST(:steps AS bigint[]), CAST(:nans AS boolean[]))
             WITH ORDINALITY AS given(key, value, timestamp, step, is_nan, place)
), logged AS (
    INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)
    SELECT key, value, timestamp, step, is_nan, :run FROM given
    ON CONFLICT DO NOTHING
)
INSERT INTO latest_metrics AS latest (key, value, timestamp, step, is_nan, run_uuid)
SELECT DISTINCT ON (key) key, value, timestamp, step, is_nan, :run FROM given
ORDER BY key, step DESC, timestamp DESC, value DESC, place
ON CONFLICT (key, run_uuid) DO UPDATE
SET value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan
WHERE (excluded.step, excluded.timestamp, excluded.value) > (latest.step, latest.timestamp, latest.value)
"""


class Rows(UserDefinedOption):  # type: ignore[misc]
    """Asks for a run's parts as rows; where nobody listens, SQLAlchemy loads objects when they are looked at."""

    propagate_to_loaders = False


class FastTrackingStore(SqlAlchemyStore):  # type: ignore[misc]
    """In sessions that only read, a run's metrics, parameters and tags are plain rows, pages are found by index, and
    the points of a chart are one statement; so are the metrics of a request.

    SQLAlchemy makes an object of each of them otherwise, watches it, and at the end forgets its attributes one by one.
    Made of MLflow's own parts for replicas.
    """

    def __init__(self, db_uri: str, default_artifact_root: str | None) -> None:
        super().__init__(db_uri, default_artifact_root)
        reader = sessionmaker(bind=self.engine)
        event.listen(reader, "do_orm_execute", load_rows)
        self.ManagedSessionMaker = _get_routing_session_maker(sessionmaker(bind=self.engine), reader, self.db_type)

    @staticmethod
    def _get_eager_run_query_options() -> list[Any]:
        return [Rows(None)]

    def _search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str | None,
        run_view_type: Any,
        max_results: int | None,
        order_by: list[str] | None,
        page_token: str | None,
    ) -> Any:
        words = (experiment_ids, filter_string, run_view_type, max_results, order_by, page_token)
        with pages.asked(pages.Search(self, *words)):
            return super()._search_runs(*words)

    def get_metric_history_bulk_interval(
        self, run_ids: list[str], metric_key: str, max_results: int, start_step: int | None, end_step: int | None
    ) -> Any:
        of_mlflow = super().get_metric_history_bulk_interval
        if (start_step is None) is not (end_step is None):  # MLflow's own refusal
            return of_mlflow(run_ids, metric_key, max_results, start_step, end_step)
        steps = None if start_step is None or end_step is None else (start_step, end_step)
        with self.ManagedSessionMaker() as session:
            if not self._supports_window_functions(session):  # MLflow asks in another way then
                return of_mlflow(run_ids, metric_key, max_results, start_step, end_step)
            found = charts.rows(session, run_ids, metric_key, max(1, max_results), steps)
            if not chart_answers.wanted.get():
                return charts.points(metric_key, run_ids, found)
            answer = chart_answers.written(metric_key, run_ids, found)
        raise answer

    def _log_metrics_once(self, run_id: str, metrics: Sequence[Any]) -> None:
        for place, metric in enumerate(metrics):
            path = f"metrics[{place}]" if len(metrics) > 1 else ""
            _validate_metric(metric.key, metric.value, metric.timestamp, metric.step, path=path)
        stored = [self.sanitize_metric_value(metric.value) for metric in metrics]
        with self.ManagedSessionMaker(read_only=False) as session:
            self._check_run_is_active(self._get_run(run_uuid=run_id, session=session))
            if metrics:
                session.execute(
                    text(LOG_METRICS),
                    {
                        "run": run_id,
                        "keys": [m.key for m in metrics],
                        "timestamps": [m.timestamp for m in metrics],
                        "steps": [m.step for m in metrics],
                        "nans": [nan for nan, _ in stored],
                        "values": [float(value) for _, value in stored],
                    },
                )


def parameters(function: Any) -> list[str]:
    return list(signature(function).parameters)


def check(db_uri: str) -> None:
    """AttributeError or ValueError, with the reason, where the store above would not do what MLflow's own does."""
    if (driver := make_url(db_uri).get_driver_name()) != "psycopg2":
        raise ValueError(f"the driver is {driver}")
    if MLFLOW_ENABLE_WORKSPACES.get() or os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR):
        raise ValueError("workspaces or a read replica are on")
    asked = [option.path[1].key for option in SqlAlchemyStore._get_eager_run_query_options()]
    if asked != list(PARTS):
        raise AttributeError(f"a run has other parts: {asked}")
    for model, name in ((SqlMetric, "metrics"), (SqlLatestMetric, "latest_metrics")):
        if model.__tablename__ != name or set(model.__table__.columns.keys()) != COLUMNS:
            raise AttributeError(f"the table {name} has other columns")
    for model in (SqlLatestMetric, SqlParam, SqlTag):  # LOG_METRICS and pages.py need it
        if {column.key for column in model.__table__.primary_key} != {"key", "run_uuid"}:
            raise AttributeError(f"the table {model.__tablename__} has another primary key")
    pages.check()
    charts.check()
    if parameters(SqlAlchemyStore._log_metrics_once) != ["self", "run_id", "metrics"]:
        raise AttributeError("_log_metrics_once takes other words")
    if parameters(_validate_metric) != ["key", "value", "timestamp", "step", "path"]:
        raise AttributeError("_validate_metric takes other words")


def load_rows(state: Any) -> Any:
    if not any(isinstance(option, Rows) for option in state.user_defined_options):
        return None
    search = pages.take()
    result = pages.result(search, state) if search else state.invoke_statement().freeze()
    rows_loader()(state.session.connection(), {row[0].run_uuid: row[0] for row in result().all()})
    return result()


@cache
def rows_loader() -> Callable[[Any, dict[str, Any]], None]:
    """What gives runs (by their ids) their PARTS: rows with the columns and the conversion of MLflow's objects."""
    kinds = []
    for name in PARTS:
        model = inspect(SqlRun).relationships[name].mapper.class_
        table = model.__table__
        names = [column.key for column in table.columns if column.key != "run_uuid"]
        row = type("Row", (namedtuple("Row", names),), {"to_mlflow_entity": model.to_mlflow_entity, "__slots__": ()})
        kinds.append((name, f"SELECT run_uuid, {', '.join(names)} FROM {table.name} WHERE run_uuid = ANY(%s)", row))

    def load(connection: Any, runs: dict[str, Any]) -> None:
        ids = list(runs)
        for name, query, row in kinds:
            of: dict[str, list[Any]] = {run_id: [] for run_id in ids}
            for start in range(0, len(ids), TOGETHER):
                for run_id, *values in connection.exec_driver_sql(query, (ids[start : start + TOGETHER],)).all():
                    of[run_id].append(row(*values))
            for run_id, rows in of.items():
                set_committed_value(runs[run_id], name, rows)

    return load
