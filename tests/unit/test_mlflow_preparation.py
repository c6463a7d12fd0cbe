"""Tables and bucket are made by one process and awaited by the others: `prepare` and `wait` of the server's program."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import bucket, errors, preparation, schema

ENVIRONMENT = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://mlflow@postgres/mlflow",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow-artifacts/live",
}
EMPTY = {"database": None, "code": "b2", "state": "empty"}
CURRENT = {"database": "b2", "code": "b2", "state": "current"}
OLDER = {"database": "a1", "code": "b2", "state": "older"}
NEWER = {"database": "c3", "code": "b2", "state": "newer"}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `wait` asks for comes at once."""
    plain = errors.wait

    def wait(what: str, ask: Callable[[], object], seconds: float = 1.0, *clock: Any) -> object:
        return plain(what, ask, seconds, *clock) if clock else plain(what, ask, seconds, sleep=lambda _: None)

    monkeypatch.setattr(preparation, "wait", wait)


def answers(monkeypatch: pytest.MonkeyPatch, *listed: object) -> None:
    """What the database says of its schema, one after the other; the last one from then on. An exception is raised."""
    said = iter(listed)
    last = listed[-1]

    def look(environment: object) -> object:
        result = next(said, last)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(schema, "look", look)


def test_it_waits_for_the_database_the_tables_and_the_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, errors.NotYet("connection refused"), EMPTY, OLDER, CURRENT)
    there = iter([False, True])
    monkeypatch.setattr(bucket, "is_there", lambda environment: next(there))
    assert preparation.await_both(ENVIRONMENT) == "the database, its tables and the bucket are there"
    assert next(there, None) is None


@pytest.mark.parametrize(
    ("found", "bucket_is_there", "code", "words"),
    [
        (EMPTY, True, errors.NO_ANSWER, "schema is empty, needed: b2"),
        (OLDER, True, errors.NO_ANSWER, "schema is a1, needed: b2"),
        (NEWER, True, errors.MISCONFIGURED, "schema of a newer MLflow"),
        (CURRENT, False, errors.NO_ANSWER, "no bucket yet"),
        (errors.Stop(errors.REFUSED, "the database refuses"), True, errors.REFUSED, "refuses"),
    ],
)
def test_its_end_says_what_is_missing(
    found: object, bucket_is_there: bool, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, found)
    monkeypatch.setattr(bucket, "is_there", lambda environment: bucket_is_there)
    with pytest.raises(errors.Stop, match=words) as caught:
        preparation.await_both(ENVIRONMENT, 0.2)
    assert caught.value.code == code


@pytest.mark.parametrize(("refusals", "patient"), [(5, True), (1000, False)])
def test_a_server_that_starts_bears_a_refusal_for_a_moment(
    refusals: int, patient: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`up` may be replacing the role's password just then; a server that ended would begin again, seconds later."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    refused = errors.Stop(errors.REFUSED, "the database refuses: password authentication failed\ntype this")
    answers(monkeypatch, *[errors.NotYet("the database system is starting up")] * 60, *[refused] * refusals, CURRENT)
    if patient:
        assert preparation.starting_schema(ENVIRONMENT, lambda: now[0], sleep) == CURRENT
        assert "(the database refuses: password authentication failed)\n" in capsys.readouterr().err
        return
    with pytest.raises(errors.Stop, match="password authentication failed\ntype this") as caught:
        preparation.starting_schema(ENVIRONMENT, lambda: now[0], sleep)
    assert caught.value.code == errors.REFUSED and now[0] > 60


def test_what_ends_a_start_does_so_before_mlflow_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(
        monkeypatch,
        errors.NotYet("connection refused"),
        errors.Stop(errors.REFUSED, "the database refuses"),
        CURRENT,
        NEWER,
    )
    assert [preparation.prepare_if_it_answers() for _ in range(3)] == ["", "", "current"]
    with pytest.raises(errors.Stop, match="newer MLflow"):
        preparation.prepare_if_it_answers()


def test_a_server_that_starts_ends_at_once_for_what_no_time_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, errors.Stop(errors.MISCONFIGURED, "the database is damaged"))
    with pytest.raises(errors.Stop, match="damaged"):
        preparation.starting_schema(ENVIRONMENT)


REFUSED = errors.Stop(errors.REFUSED, "the object store refuses: SignatureDoesNotMatch")


@pytest.mark.parametrize(
    ("first", "store", "seconds", "words"),
    [
        (False, [errors.NotYet("connection refused"), REFUSED, False, True], (0, 5), "there is no bucket"),
        (True, [*[False] * 40, True], (60, 120), "there is no bucket"),  # it is being made
        (True, [*[REFUSED] * 40, True], (60, 120), "the object store refuses"),
        (False, [errors.NotYet("connection refused")], (10, 15), "starts without the object store: connection refused"),
        (False, [REFUSED], (10, 15), "starts without the object store: the object store refuses"),
        (False, [False], (10, 15), "starts without the object store: there is no bucket"),  # somebody deleted it
    ],
)
def test_a_server_that_starts_serves_nothing_before_the_bucket_is_made(
    first: bool,
    store: list[object],
    seconds: tuple[float, float],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But later a store without an answer, or without the bucket, is missing for artifacts alone, as while it runs."""
    now, said = [0.0], iter(store)

    def is_there(environment: object) -> object:
        result = next(said, store[-1])
        if isinstance(result, Exception):
            raise result
        return result

    def sleep(some: float) -> None:
        now[0] += some

    monkeypatch.setattr(bucket, "is_there", is_there)
    preparation.await_bucket(ENVIRONMENT, first, lambda: now[0], sleep)
    assert seconds[0] <= now[0] <= seconds[1] and words in capsys.readouterr().err
    assert next(said, None) is None


def test_a_first_server_whose_bucket_nobody_makes_ends_and_a_folder_is_not_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    def sleep(some: float) -> None:
        now[0] += some

    def refuses(environment: object) -> bool:
        raise REFUSED

    for looked, words in ((lambda environment: False, "there is no bucket"), (refuses, "refuses")):
        now[0] = 0.0
        monkeypatch.setattr(bucket, "is_there", looked)
        with pytest.raises(errors.Stop, match=words) as caught:
            preparation.await_bucket(ENVIRONMENT, True, lambda: now[0], sleep)
        assert caught.value.code == errors.NO_ANSWER and now[0] > 500
    preparation.await_bucket({"MLFLOW_ARTIFACTS_DESTINATION": "/artifacts"}, True, lambda: now[0], sleep)


@pytest.mark.parametrize("replies", [True, False])
def test_who_asked_for_the_bucket_keeps_no_connection(replies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is forked afterwards: its workers would read each other's answers from one socket."""
    ended: list[str] = []

    def list_objects_v2(**_: object) -> dict[str, str]:
        if replies:
            return {}
        raise errors.NotYet("connection refused")

    client = SimpleNamespace(list_objects_v2=list_objects_v2, close=lambda: ended.append("closed"))
    monkeypatch.setattr(bucket, "s3_client", lambda environment: client)
    expected: AbstractContextManager[object] = nullcontext() if replies else pytest.raises(errors.NotYet)
    with expected:
        assert bucket.is_there(ENVIRONMENT)
    assert ended == ["closed"]


@pytest.mark.parametrize(("template", "by_mlflow"), [("CREATE TABLE t ();", []), (None, ["postgresql"])])
def test_an_empty_database_gets_its_tables_once(
    template: str | None, by_mlflow: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    made: list[str] = []
    filled: list[str] = []
    monkeypatch.setattr(schema, "template", lambda code: template)
    monkeypatch.setattr(schema, "schema", lambda environment: CURRENT if filled or made else EMPTY)
    monkeypatch.setattr(schema, "fill", lambda uri, statements: filled.append(statements))
    monkeypatch.setattr(schema, "make_as_mlflow", lambda uri: made.append(uri.partition("+")[0]))
    assert preparation.make_tables() == "the database has the schema b2"
    assert (filled, made) == ([template] if template else [], by_mlflow)


def test_a_folder_of_artifacts_is_looked_for(tmp_path: Path) -> None:
    assert bucket.is_there({"MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path)})
    assert not bucket.is_there({"MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "none")})
