"""The schema of the MLflow server's database (trackbed_mlflow/schema.py): whether it is this MLflow's."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import errors, schema


def revision(folder: Path, name: str, parent: str) -> None:
    (folder / f"{name}_x.py").write_text(f'"""revision = "none"."""\nrevision = "{name}"\ndown_revision = {parent}\n')


def test_the_newest_revision_is_read_from_the_files(tmp_path: Path) -> None:
    revision(tmp_path, "a1", "None")
    revision(tmp_path, "b2", '"a1"')
    revision(tmp_path, "c3", '"a1"  # a branch')
    revision(tmp_path, "d4", '("b2", "c3")')
    (tmp_path / "typed.py").write_text("revision: str = 'e5'\ndown_revision: str | None = 'd4'\n")
    (tmp_path / "__init__.py").write_text("")
    assert schema.migrations(tmp_path) == ("e5", frozenset({"a1", "b2", "c3", "d4", "e5"}))


def test_two_newest_revisions_are_an_error(tmp_path: Path) -> None:
    revision(tmp_path, "a1", "None")
    revision(tmp_path, "b2", "None")
    with pytest.raises(errors.Stop):
        schema.migrations(tmp_path)


@pytest.mark.parametrize(
    ("have", "populated", "state"),
    [
        (None, False, "empty"),
        (None, True, "older"),  # from before MLflow kept a revision
        ("new", True, "current"),
        ("old", True, "older"),
        ("old", False, "older"),
        ("from the future", True, "newer"),
        ("new,old", True, "newer"),
    ],
)
def test_state_of_the_schema(have: str | None, populated: bool, state: str) -> None:
    assert schema.schema_state(have, populated, "new", frozenset({"old", "new"})) == state


@pytest.mark.parametrize(
    ("state", "migrate", "result"),
    [
        ("empty", False, False),
        ("current", False, False),
        ("current", True, False),
        ("older", True, True),
        ("older", False, "TRACKBED_MIGRATE=1"),
        ("newer", False, "newer MLflow"),
        ("newer", True, "newer MLflow"),
    ],
)
def test_the_guard_starts_nothing_on_another_schema(state: str, migrate: bool, result: bool | str) -> None:
    found = {"database": "d", "code": "c", "state": state}
    if isinstance(result, bool):
        assert schema.guard(found, migrate) is result
        return
    with pytest.raises(errors.Stop, match=result) as caught:
        schema.guard(found, migrate)
    assert caught.value.code == errors.MISCONFIGURED
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("message", "final"),
    [
        ('FATAL: password authentication failed for user "mlflow"', True),
        ("fe_sendauth: no password supplied", True),
        ('FATAL: no pg_hba.conf entry for host "172.20.0.3"', True),
        ("connection refused", False),
        ("FATAL: the database system is starting up", False),
        ('FATAL: database "mlflow" does not exist', False),  # the engine may be about to create it
    ],
)
def test_only_final_answers_end_the_wait(message: str, final: bool) -> None:
    assert schema.refused(message) is final


@pytest.mark.parametrize(
    ("said", "step"),
    [('FATAL: password authentication failed for user "mlflow"', True), ("FATAL: no pg_hba.conf entry", False)],
)
def test_a_wrong_password_ends_with_what_to_type(said: str, step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's last line: Docker starts the server again, and nothing else is told to whom Compose started it."""

    class Refused(Exception):
        orig = said

    def connect() -> None:
        raise Refused

    library: Any = ModuleType("sqlalchemy")
    library.exc = SimpleNamespace(OperationalError=Refused, InternalError=ZeroDivisionError)
    library.make_url = lambda uri: SimpleNamespace(get_backend_name=lambda: "postgresql")
    library.create_engine = lambda *_, **__: SimpleNamespace(connect=connect)
    monkeypatch.setitem(sys.modules, "sqlalchemy", library)
    monkeypatch.setitem(sys.modules, "sqlalchemy.pool", SimpleNamespace(NullPool=None))
    with pytest.raises(errors.Stop) as caught:
        schema.read_database("postgresql://mlflow@postgres/mlflow")
    lines = str(caught.value).splitlines()
    assert lines == [f"the database refuses: {said}", schema.PASSWORD][: 1 + step] and "`invoke up`" in schema.PASSWORD


def test_a_prepared_schema_counts_for_its_own_revision_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "database.py"))
    assert schema.template("a1") is None
    (tmp_path / "schema.sql").write_text("-- revision a1\nCREATE TABLE t ();\n")
    assert schema.template("a1") == "CREATE TABLE t ();\n"
    assert schema.template("b2") is None


class AlembicConfig:
    """As alembic's own keeps its values: with % expanded."""

    def __init__(self) -> None:
        self.file_config = configparser.ConfigParser()
        self.file_config.add_section("alembic")

    def set_main_option(self, name: str, value: str) -> None:
        self.file_config.set("alembic", name, value)


@pytest.mark.parametrize("name", ["plain", "my state 100% %(x)s", "100%25"])
def test_migrations_are_found_in_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def own(db_url: str) -> Any:
        raise AssertionError("not asked here")

    modules: dict[str, Any] = {
        "mlflow": ModuleType("mlflow"),
        "mlflow.store": ModuleType("mlflow.store"),
        "mlflow.store.db": SimpleNamespace(utils=SimpleNamespace(_get_alembic_config=own)),
        "alembic": ModuleType("alembic"),
        "alembic.config": SimpleNamespace(Config=AlembicConfig),
    }
    for module, content in modules.items():
        monkeypatch.setitem(sys.modules, module, content)
    folder = tmp_path / name / "mlflow" / "store" / "db_migrations"
    monkeypatch.setattr(schema, "versions", lambda: folder / "versions")
    schema.find_migrations()
    used = modules["mlflow.store.db"].utils._get_alembic_config
    if name == "plain":
        assert used is own  # MLflow's own way, wherever it works
        return
    result = used(db_url="postgresql://u@/d?host=%2Fa%20b").file_config["alembic"]
    assert result["script_location"] == str(folder)
    assert result["sqlalchemy.url"] == "postgresql://u@/d?host=%2Fa%20b"
