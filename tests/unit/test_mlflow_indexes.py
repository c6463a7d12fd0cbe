"""Our indexes beside MLflow's (trackbed_mlflow/indexes.py): who makes and removes them, and when."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import errors, indexes

FIRST, SECOND = list(indexes.INDEXES)[:2]
TWO = {name: indexes.INDEXES[name] for name in (FIRST, SECOND)}


class Refused(Exception):
    """What the database says."""


class Answer:
    def __init__(self, *rows: tuple[Any, ...]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def one(self) -> tuple[Any, ...]:
        return self.rows[0]

    def scalar(self) -> Any:
        return self.rows[0][0]

    scalar_one = scalar


class Database:
    """As much of PostgreSQL and its connection as indexes need. ``small``: tables that are not large."""

    small: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.whole: dict[str, bool] = {}
        self.parameter: str | None = None
        self.comment: str | None = None
        self.others = 0  # how often somebody else has the lock
        self.locked = False
        self.said: list[str] = []
        self.before: Callable[[str], None] = lambda statement: None

    dialect = SimpleNamespace(name="postgresql")

    def connect(self) -> Database:
        return self

    def execution_options(self, **_: str) -> Database:
        return self

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def exec_driver_sql(self, statement: str) -> Answer:
        self.said.append(statement)
        self.before(statement)
        words = statement.split()
        if "pg_try_advisory_lock" in statement:
            self.others -= 1
            self.locked = self.others < 0
            return Answer((self.locked,))
        if "pg_advisory_unlock" in statement:
            self.locked = False
        if "obj_description" in statement:
            return Answer((self.parameter, self.comment))
        if "indisvalid" in statement:
            return Answer(*self.whole.items())
        if "pg_relation_size" in statement:
            return Answer((0 if any(f"'{table}'" in statement for table in self.small) else indexes.LARGE + 1,))
        if statement.startswith("COMMENT"):
            self.comment = None if words[-1] == "NULL" else statement.split("'")[1]
        if statement.startswith("CREATE INDEX"):
            self.whole[words[3]] = True
        if statement.startswith("DROP INDEX"):
            self.whole.pop(words[-1], None)
        return Answer((True,))

    def of(self, start: str) -> list[str]:
        return [statement for statement in self.said if statement.startswith(start)]


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    def asked(what: str, ask: Callable[[], None], seconds: float) -> None:
        return errors.wait(what, ask, seconds, clock=lambda: 0.0, sleep=lambda _: None)

    monkeypatch.setattr(indexes, "wait", asked)
    return Database()


def test_no_more_are_made_once_somebody_has_removed_them(database: Database) -> None:
    def removed(statement: str) -> None:
        if statement.startswith("CREATE INDEX"):
            database.comment = indexes.UNWANTED

    database.before = removed
    assert indexes.ensure(database, chosen=TWO) == [FIRST]
    assert len(database.of("CREATE")) == 1


def test_what_is_being_made_is_awaited_and_removed_too(database: Database) -> None:
    database.others = 3

    def made(statement: str) -> None:
        if database.others == 0 and "pg_try_advisory_lock" in statement:
            assert database.comment == indexes.UNWANTED  # whoever makes them knows already
            database.whole[FIRST] = True

    database.before = made
    assert indexes.remove(database) == [FIRST]
    assert database.whole == {} and not database.locked


def test_of_two_processes_one_makes_an_index(database: Database) -> None:
    database.others, database.whole = 2, {FIRST: False}

    def finished(statement: str) -> None:
        if database.others == 0 and "pg_try_advisory_lock" in statement:
            database.whole[FIRST] = True

    database.before = finished
    assert indexes.ensure(database, chosen=TWO, alone=True) == [SECOND]
    assert not [one for one in database.said if FIRST in one.split() and one.startswith(("DROP", "CREATE"))]
    assert not database.locked and database.said.index(database.of("SET lock_timeout")[0]) > 2


@pytest.mark.parametrize("connected", [True, False])
def test_a_build_that_fails_leaves_nothing_and_tells_why(database: Database, connected: bool) -> None:
    ended = False

    def fails(statement: str) -> None:
        nonlocal ended
        if ended:
            raise Refused("the connection has ended")
        if statement.startswith("CREATE INDEX"):
            database.whole[FIRST] = False
            ended = not connected
            raise Refused("canceling statement due to lock timeout")

    database.before = fails
    with pytest.raises(Refused, match="lock timeout"):
        indexes.ensure(database, chosen=TWO, alone=True)
    if connected:
        assert database.whole == {} and not database.locked
        # what ended the build may last longer than any patience
        last = [one for one in database.said if one.startswith(("SET", "RESET", "DROP"))][-3:]
        assert last == ["SET lock_timeout = 0", f"DROP INDEX CONCURRENTLY {FIRST}", "RESET lock_timeout"]


def test_who_wants_them_again_needs_not_own_the_database(database: Database) -> None:
    database.comment = indexes.UNWANTED
    assert indexes.ensure(database, concurrently=True, chosen=TWO, alone=True) == [FIRST, SECOND]
    assert database.comment is None and not database.of("ALTER DATABASE")


def test_somebody_elses_comment_stays(database: Database) -> None:
    database.parameter, database.comment = "off", "the site's own words"
    indexes.ensure(database, concurrently=True, chosen=TWO)
    assert database.comment == "the site's own words" and len(database.of("ALTER DATABASE")) == 1


def test_a_small_table_that_somebody_locks_does_not_keep_the_large_ones_from_their_indexes(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(statement: str) -> None:
        if statement.startswith("CREATE INDEX"):
            raise Refused("canceling statement due to lock timeout")

    monkeypatch.setitem(sys.modules, "sqlalchemy.exc", SimpleNamespace(SQLAlchemyError=Refused))
    monkeypatch.setitem(sys.modules, "sqlalchemy", SimpleNamespace())
    database.small, database.before = ("experiments",), fails
    assert indexes.make(database)
    said = capsys.readouterr().err
    assert "lock timeout" in said and "making 5 indexes of large tables" in said


def test_another_process_that_does_not_end_is_no_failure_of_the_server(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_answer(what: str, *_: object) -> None:
        raise errors.Stop(errors.NO_ANSWER, f"{what} did not answer")

    exceptions = SimpleNamespace(SQLAlchemyError=Refused)
    monkeypatch.setitem(sys.modules, "sqlalchemy", SimpleNamespace(exc=exceptions))
    monkeypatch.setattr(indexes, "_engine", lambda environment: database)
    monkeypatch.setattr(indexes, "wait", no_answer)
    assert "looked after" in indexes.make_large({})
    assert "another process that makes or removes indexes did not answer" in capsys.readouterr().err
