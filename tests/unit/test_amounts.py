"""How far gc and a migration are: what the server tells (trackbed_mlflow/amounts.py), and who listens."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from trackbed_mlflow import amounts as server
from trackbed_mlflow import schema

from helpers.data import amounts
from helpers.engines import streaming
from helpers.errors import TrackbedError
from tests.unit.fakes import Silent


class Heard(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.amounts: list[tuple[str, int, int, str]] = []

    def amount(self, name: str, done: int, whole: int, note: str) -> None:
        self.amounts.append((name, done, whole, note))


def lines(capsys: pytest.CaptureFixture[str]) -> list[list[object]]:
    return [json.loads(line)["amount"] for line in capsys.readouterr().out.splitlines()]


def test_items_are_told_once_they_were_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "EVERY", 0.0)
    assert list(server.counted("ab", "folders", 2)) == ["a", "b"]
    assert lines(capsys) == [["folders", 1, 2], ["folders", 2, 2]]
    monkeypatch.setattr(server, "EVERY", 1e9)
    assert list(server.counted("ab", "folders", 2)) == ["a", "b"] and lines(capsys) == []


def test_the_migrations_between_two_revisions_are_counted(tmp_path: Path) -> None:
    """Also where two lines of them join."""
    known = {"a": None, "b": "a", "c": "b", "side": "b", "d": ("c", "side"), "e": "d"}
    for name, before in known.items():
        (tmp_path / f"{name}.py").write_text(f"revision = {name!r}\ndown_revision = {before!r}\n")
    assert [schema.steps(tmp_path, name, "e") for name in ("e", "d", "c", "b")] == [0, 1, 3, 4]


def test_each_migration_that_alembic_begins_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    steps, logger = schema.Steps(2), logging.getLogger(schema.Steps.LOGGER)
    before = logger.level
    steps.attach()
    try:
        for text in ("Context impl PostgresqlImpl.", "upgrade a -> b, one", "upgrade b -> c, two"):
            logger.info("Running %s" if text.startswith("upgrade") else "%s", text)
    finally:
        logger.removeFilter(steps)
        logger.setLevel(before)
    assert lines(capsys) == [["migrations", 0, 2], ["migrations", 1, 2]]


def test_what_the_server_tells_is_passed_on_and_its_last_words_are_given() -> None:
    said = [{"amount": ["objects listed", 3, 0]}, {"amount": ["folders", 1, 4]}, "noise", {"rows": {}}]
    program = f"for one in {[json.dumps(one) for one in said]!r}: print(one)"
    heard = Heard()
    with streaming.piped("gc", [sys.executable, "-c", program]) as pipe:
        assert json.loads(amounts.followed(pipe, heard)) == {"rows": {}}
    assert heard.amounts == [("objects listed", 3, 0, "3"), ("folders", 1, 4, "1 of 4")]


def test_a_command_that_fails_after_it_told_something_failed() -> None:
    program = "import sys; print('{}'); sys.exit('trackbed: the database does not answer')"
    with (
        pytest.raises(TrackbedError, match="gc failed: trackbed: the database does not answer"),
        streaming.piped("gc", [sys.executable, "-c", program]) as pipe,
    ):
        amounts.followed(pipe, Heard())
