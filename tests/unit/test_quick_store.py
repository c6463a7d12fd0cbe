"""trackbed_mlflow/fast_path/tracking_store.py where MLflow or its driver are not what it was written for: their own way stays.

That both ways do the same is tested with a database: tests/integration/test_quick.py.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow.fast_path import tracking_store


class Dialect:
    driver = "psycopg2"

    def do_ping(self, connection: object) -> bool:
        return True


def store(driver: str) -> Any:
    dialect = Dialect()
    dialect.driver = driver
    return SimpleNamespace(
        engine=SimpleNamespace(dialect=dialect),
        _log_metrics_once=lambda run_id, metrics: None,
        ManagedSessionMaker=object(),
    )


def test_another_driver_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    given = store("pysqlite")
    before = dict(vars(given))
    tracking_store.shorten(given)
    assert vars(given) == before and "do_ping" not in vars(given.engine.dialect)
    assert capsys.readouterr().err == ""


def test_what_is_missing_is_told_and_the_own_way_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mlflow", "sqlalchemy"):
        monkeypatch.setitem(sys.modules, name, None)
    given = store("psycopg2")
    before = dict(vars(given))
    tracking_store.shorten(given)
    assert vars(given) == before
    told = capsys.readouterr().err
    for what in ("UPDATEs are sent one by one", "MLflow's own way of reading", "MLflow's own way of logging metrics"):
        assert what in told


class Connection:
    """Stands for a connection with a socket."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fileno(self) -> int:
        return self.number


def test_a_connection_is_asked_when_it_was_idle_or_has_something_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    asked: list[object] = []

    def ping(connection: object) -> bool:
        asked.append(connection)
        return True

    engine = SimpleNamespace(dialect=SimpleNamespace(do_ping=ping))
    tracking_store.pinged(engine)
    ours, theirs = socket.socketpair()
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    connection = Connection(ours.fileno())
    assert engine.dialect.do_ping(connection) and len(asked) == 1  # never used before
    assert engine.dialect.do_ping(connection) and len(asked) == 1
    now[0] += tracking_store.TRUSTED_SECONDS + 0.1
    assert engine.dialect.do_ping(connection) and len(asked) == 2
    theirs.close()
    assert engine.dialect.do_ping(connection) and len(asked) == 3  # its end is to be read
    ours.close()
