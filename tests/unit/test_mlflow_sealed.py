"""trackbed_mlflow/encryption.py: rows are brought to today's key, whatever they were encrypted with. Without MLFlow here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from trackbed_mlflow import encryption
from trackbed_mlflow.encryption import PASSPHRASE, WEBHOOK_KEY, Kind, Row


class Table:
    """Encrypted values by key; "encrypted" is KEY:content."""

    def __init__(self, **values: str) -> None:
        self.values = values

    def execute(self, statement: Any, parameters: dict[str, Any]) -> None:
        value = parameters["value"]
        self.values[parameters["key"]] = value if isinstance(value, str) else value.decode()


def opened(row: Row, secret: str) -> bytes | None:
    key, _, content = row.value.decode().partition(":")
    return content.encode() if key == secret else None


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Table]:
    tables = {PASSPHRASE: Table(a="today:1", b="old:2", c="public:3", d="gone:4"), WEBHOOK_KEY: Table(w="old:5")}
    listed = {
        name: Kind(name, name, opened, lambda content, secret: f"{secret}:".encode() + content, ["older", "old"])
        for name in tables
    }

    @contextmanager
    def connected(environment: object) -> Iterator[Any]:
        class Connection:
            def execute(self, statement: str, parameters: dict[str, Any]) -> None:
                tables[statement].execute(statement, parameters)

        yield Connection()

    monkeypatch.setattr(encryption, "connected", connected)
    monkeypatch.setattr(encryption, "kinds", lambda environment: listed)
    monkeypatch.setattr(encryption, "_text", lambda statement: statement)
    monkeypatch.setattr(
        encryption,
        "rows",
        lambda connection, kind: [
            Row(key, f"name of {key}", value.encode()) for key, value in tables[kind.select].values.items()
        ],
    )
    monkeypatch.setattr(encryption, "_public", lambda name: ("public",) if name == PASSPHRASE else ())
    return tables


def test_rows_come_to_todays_key(tables: dict[str, Table], capsys: pytest.CaptureFixture[str]) -> None:
    done = encryption.reseal({PASSPHRASE: "today", WEBHOOK_KEY: "hook"})
    assert done == {PASSPHRASE: 2, WEBHOOK_KEY: 1}
    assert tables[PASSPHRASE].values == {"a": "today:1", "b": "today:2", "c": "today:3", "d": "gone:4"}
    assert tables[WEBHOOK_KEY].values == {"w": "hook:5"}
    assert "'name of d'" in capsys.readouterr().err
    assert encryption.reseal({PASSPHRASE: "today", WEBHOOK_KEY: "hook"}) == {PASSPHRASE: 0, WEBHOOK_KEY: 0}


def test_without_a_key_nothing_is_touched(tables: dict[str, Table]) -> None:
    before = dict(tables[PASSPHRASE].values)
    assert encryption.reseal({}) == {PASSPHRASE: 0, WEBHOOK_KEY: 0}
    assert tables[PASSPHRASE].values == before


def test_report(tables: dict[str, Table], tmp_path: Path) -> None:
    (tmp_path / "kek-passphrase").write_text("today")
    (tmp_path / "webhook-key").write_text("old")
    result = encryption.report({encryption.FOLDER: str(tmp_path)}, {PASSPHRASE: ["today", "old"]})
    assert result["rows"] == {PASSPHRASE: 4, WEBHOOK_KEY: 1}
    assert result["lost"] == {PASSPHRASE: ["name of b", "name of c", "name of d"], WEBHOOK_KEY: []}
    assert result["opened"] == {PASSPHRASE: [1, 1], WEBHOOK_KEY: []}


def test_a_deleted_webhook_that_nobody_can_decrypt_counts_nowhere(
    tables: dict[str, Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "webhook-key").write_text("hook")
    monkeypatch.setattr(
        encryption,
        "rows",
        lambda connection, kind: [Row("w", "kept", b"hook:1"), Row("x", "deleted", b"gone:2", reported=False)],
    )
    result = encryption.report({encryption.FOLDER: str(tmp_path)}, {WEBHOOK_KEY: ["hook", "old"]})
    assert (result["rows"][WEBHOOK_KEY], result["lost"][WEBHOOK_KEY], result["opened"][WEBHOOK_KEY]) == (1, [], [1, 0])


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "kek-passphrase").write_text("one")
    environment = {encryption.FOLDER: str(tmp_path), "MLFLOW_CRYPTO_KEK_VERSION": "7"}
    encryption.load(environment)
    assert environment == {encryption.FOLDER: str(tmp_path), PASSPHRASE: "one"}
    assert encryption.words({}, "kek-passphrase") == []


class PostgreSQL:
    """In place of psycopg2: one answer for each kind of rows."""

    Error = OSError

    def __init__(self, *answers: bool) -> None:
        self.answers, self.asked = answers, ""

    def connect(self, uri: str, connect_timeout: int) -> PostgreSQL:
        self.asked = uri
        return self

    def cursor(self) -> PostgreSQL:
        return self

    def execute(self, statement: str) -> None:
        if not self.answers:
            raise OSError("no such table")

    def fetchall(self) -> list[tuple[bool]]:
        return [(answer,) for answer in self.answers]

    def close(self) -> None: ...


URI = {"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://mlflow@/mlflow?host=%2Frun"}


def test_a_database_without_encrypted_rows_is_reported_by_one_look(
    tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", asked := PostgreSQL(False, False))
    monkeypatch.setattr(encryption, "connected", lambda environment: pytest.fail("the rows were read"))
    assert encryption.report(URI, {PASSPHRASE: ["one", "two"]}) == {
        "rows": {PASSPHRASE: 0, WEBHOOK_KEY: 0},
        "lost": {PASSPHRASE: [], WEBHOOK_KEY: []},
        "opened": {PASSPHRASE: [0, 0], WEBHOOK_KEY: []},
    }
    assert asked.asked == "postgresql://mlflow@/mlflow?host=%2Frun"


@pytest.mark.parametrize("answers", [(True, False), (False, True), ()])
def test_what_is_encrypted_or_cannot_be_told_is_read(
    tables: dict[str, Table], monkeypatch: pytest.MonkeyPatch, answers: tuple[bool, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", PostgreSQL(*answers))
    assert encryption.report(URI, {})["rows"] == {PASSPHRASE: 4, WEBHOOK_KEY: 1}
