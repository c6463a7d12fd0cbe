"""MLflow's work with PostgreSQL in fewer steps: the same rows and the same answers.

What is replaced is looked at first: where MLflow or SQLAlchemy are not built as this was written for, theirs stays.
"""

from __future__ import annotations

import select
import time
import types
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

from trackbed_mlflow.errors import say

PARTS = ("latest_metrics", "params", "tags")  # of a run, as MLflow loads them with it
TOGETHER = 500  # runs whose parts are asked for at once
COLUMNS = {"key", "value", "timestamp", "step", "is_nan", "run_uuid"}  # of LOG_METRICS' two tables
TRUSTED_SECONDS = 1.0  # a connection used so recently, with nothing to read on it, is taken for alive

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


def parameters(function: Any) -> list[str]:
    return list(signature(function).parameters)


def batched(engine: Any) -> None:
    """Many UPDATEs of one request in one message; psycopg2 sends each alone otherwise."""
    try:
        from sqlalchemy.dialects.postgresql.psycopg2 import EXECUTEMANY_VALUES_PLUS_BATCH

        engine.dialect.executemany_mode = EXECUTEMANY_VALUES_PLUS_BATCH
        engine.dialect.supports_sane_multi_rowcount = False  # as its constructor does for this mode
    except (ImportError, AttributeError) as error:
        say(f"UPDATEs are sent one by one: {error!r}")


def pinged(engine: Any) -> None:
    """No `SELECT 1` before each use of a connection that was used a moment ago and that the server has not ended.

    A server that goes away, tidily or not, closes its sockets, and a closed one has something to read: its end.
    """
    own = engine.dialect.do_ping
    used: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def ping(connection: Any) -> bool:
        now = time.monotonic()
        recent = now - used.get(connection, 0) < TRUSTED_SECONDS
        used[connection] = now
        if recent:
            socket = select.poll()
            socket.register(connection.fileno(), select.POLLIN)
            if not socket.poll(0):
                return True
        return bool(own(connection))

    engine.dialect.do_ping = ping


def reading(store: Any) -> None:
    """Sessions that only read keep what they read, and a run's metrics, parameters and tags are plain rows in them.

    SQLAlchemy makes an object of each of them otherwise, watches it, and at the end forgets its attributes one by one:
    five times the processor time for a page of runs. Made of MLflow's own parts for replicas.
    """
    from mlflow.store.db.utils import _get_routing_session_maker  # type: ignore[import-not-found]
    from sqlalchemy import event
    from sqlalchemy.orm import sessionmaker
    from sqlalchemy.orm.interfaces import UserDefinedOption

    class Rows(UserDefinedOption):  # type: ignore[misc]
        """Asks for the rows; where nobody listens, SQLAlchemy loads objects when they are looked at."""

        propagate_to_loaders = False

    asked = [option.path[1].key for option in store._get_eager_run_query_options()]
    if store.read_engine is not None or asked != list(PARTS):
        raise AttributeError(f"a replica, or other parts of a run: {asked}")
    reader = sessionmaker(bind=store.engine, expire_on_commit=False)
    load = rows_loader()

    def loaded(state: Any) -> Any:
        if not any(isinstance(option, Rows) for option in state.user_defined_options):
            return None
        found = state.invoke_statement().freeze()
        load(state.session.connection(), {row[0].run_uuid: row[0] for row in found().all()})
        return found()

    event.listen(reader, "do_orm_execute", loaded)
    store.ManagedSessionMaker = _get_routing_session_maker(sessionmaker(bind=store.engine), reader, store.db_type)
    store._get_eager_run_query_options = lambda: [Rows(None)]


def rows_loader() -> Callable[[Any, dict[str, Any]], None]:
    """What gives runs (by their ids) their PARTS: rows with the columns and the conversion of MLflow's objects."""
    from mlflow.store.tracking.dbmodels.models import SqlRun  # type: ignore[import-not-found]
    from sqlalchemy import inspect
    from sqlalchemy.orm.attributes import set_committed_value

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


def logging(store: Any) -> None:
    """The metrics of a request in one statement; MLflow selects, locks, inserts and updates them through objects."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric
    from mlflow.store.tracking.sqlalchemy_store import _validate_metric  # type: ignore[import-not-found]
    from sqlalchemy import text

    for model, name in ((SqlMetric, "metrics"), (SqlLatestMetric, "latest_metrics")):
        if model.__tablename__ != name or set(model.__table__.columns.keys()) != COLUMNS:
            raise AttributeError(f"the table {name} has other columns")
    if {column.key for column in SqlLatestMetric.__table__.primary_key} != {"key", "run_uuid"}:
        raise AttributeError("the latest metrics have another primary key")
    if parameters(store._log_metrics_once) != ["run_id", "metrics"] or parameters(_validate_metric) != [
        "key",
        "value",
        "timestamp",
        "step",
        "path",
    ]:
        raise AttributeError("_log_metrics_once or _validate_metric takes other words")
    statement = text(LOG_METRICS)

    def log_metrics(self: Any, run_id: str, metrics: Sequence[Any]) -> None:
        for place, metric in enumerate(metrics):
            _validate_metric(
                metric.key,
                metric.value,
                metric.timestamp,
                metric.step,
                path=f"metrics[{place}]" if len(metrics) > 1 else "",
            )
        stored = [self.sanitize_metric_value(metric.value) for metric in metrics]
        with self.ManagedSessionMaker(read_only=False) as session:
            self._check_run_is_active(self._get_run(run_uuid=run_id, session=session))
            if metrics:
                session.execute(
                    statement,
                    {
                        "run": run_id,
                        "keys": [m.key for m in metrics],
                        "timestamps": [m.timestamp for m in metrics],
                        "steps": [m.step for m in metrics],
                        "nans": [nan for nan, _ in stored],
                        "values": [float(value) for _, value in stored],
                    },
                )

    store._log_metrics_once = types.MethodType(log_metrics, store)


@contextmanager
def kept(what: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        say(f"MLflow's own way of {what}: {error!r}")


def shorten(*stores: Any) -> None:
    """Everything above, for stores of MLflow over psycopg2; others stay as they are."""
    over = [store for store in stores if hasattr(store, "engine") and store.engine.dialect.driver == "psycopg2"]
    for engine in {id(store.engine): store.engine for store in over}.values():  # stores may share one
        batched(engine)
        with kept("looking at connections"):
            pinged(engine)
    for store in over:
        if hasattr(store, "_log_metrics_once"):  # the tracking store; a registry has no metrics
            with kept("reading"):
                reading(store)
            with kept("logging metrics"):
                logging(store)
