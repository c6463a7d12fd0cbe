"""The staging database: a source's data in SQLite, in the schema of this MLflow. It goes when the import ends."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from trackbed_mlflow import schema
from trackbed_mlflow.errors import FAILED, Stop
from trackbed_mlflow.imports.file_store import FileStore, files
from trackbed_mlflow.imports.server_pages import ServerPages
from trackbed_mlflow.imports.server_rows import ServerRows

KINDS = FOLDER, SQLITE, ROWS, PAGES = "folder", "sqlite", "rows", "pages"
# what SQLite may need of a database that was not closed
PARTS = ("source.db", "source.db-wal", "source.db-journal")


@dataclass
class Staged:
    """A source's data. ``remarks``: what is not as it was, in lines; ``unread``: what could not be read."""

    path: Path
    remarks: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


@contextmanager
def staged(kind: str, stream: BinaryIO) -> Iterator[Staged]:
    """Read a source of that kind from a tar stream."""
    with tempfile.TemporaryDirectory(prefix="tmp-import-") as name:
        folder = Path(name)
        read = {FOLDER: _read_folder, SQLITE: _read_sqlite, ROWS: _read_rows, PAGES: _read_pages}[kind]
        result = read(folder, stream)
        result.remarks += _drop_orphans(result.path)
        yield result


@contextmanager
def _fresh(path: Path, what: str, *errors: type[Exception]) -> Iterator[Any]:
    """A connection to a new database of MLflow's. ``what``: what one of ``errors``, or of the tables', means."""
    import sqlalchemy
    from mlflow.store.db import utils  # type: ignore[import-not-found]

    schema.find_migrations()
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    utils._initialize_tables(engine)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA synchronous = OFF")  # it is made again after a crash
            yield connection
    except (sqlalchemy.exc.SQLAlchemyError, *errors) as error:
        said = " ".join(str(getattr(error, "orig", repr(error))).split())[:300]
        raise Stop(FAILED, f"{what}: {said}") from None
    finally:
        engine.dispose()


def _read_folder(folder: Path, stream: BinaryIO) -> Staged:
    result = Staged(folder / "staging.db")
    with _fresh(result.path, "MLflow's reader gives rows that its own tables do not take") as connection:
        store = FileStore(connection, folder / "mlruns")
        store.read(stream)
        connection.commit()
        stored = int(connection.exec_driver_sql("SELECT count(*) FROM metrics").scalar() or 0)
    result.remarks, result.unread = store.remarks, store.unread
    if twice := store.read_metrics - stored:
        result.remarks.append(
            f"{twice} values of metrics were logged twice at the same time and step; a database holds them once"
        )
    return result


def _read_pages(folder: Path, stream: BinaryIO) -> Staged:
    result = Staged(folder / "staging.db")
    with _fresh(result.path, "the server's answers are not those of an MLflow", KeyError, TypeError) as connection:
        pages = ServerPages(connection, result.path)
        pages.read(stream)
    result.remarks, result.unread = pages.remarks, pages.unread
    return result


def _read_sqlite(folder: Path, stream: BinaryIO) -> Staged:
    for name, content in files(stream):
        if name not in PARTS:
            raise Stop(FAILED, f"{name!r} does not belong to a database")
        with (folder / name).open("wb") as target:
            shutil.copyfileobj(content, target, 2**20)
    path = folder / PARTS[0]
    _check(path)
    _disarm(path)
    uri = f"sqlite:///{path}"
    revision, _ = schema.read_database(uri)
    if revision is None:
        raise Stop(FAILED, "the database is not MLflow's: it has no revision of MLflow's schema")
    _make_current(uri, revision)
    return Staged(path)


def _read_rows(folder: Path, stream: BinaryIO) -> Staged:
    path = folder / PARTS[0]
    read = ServerRows(path)
    read.read(stream)
    _make_current(f"sqlite:///{path}", read.revision)
    return Staged(path, read.remarks)


def _make_current(uri: str, revision: str) -> None:
    state = schema.known(revision)
    if state == "newer":
        raise Stop(FAILED, f"the database has the schema {revision} of a newer MLflow than this project's")
    if state == "older":
        _upgrade(uri)


def _check(path: Path) -> None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        raise Stop(FAILED, f"the database is damaged, or no SQLite database: {verdict}")


def _disarm(path: Path) -> None:
    """MLflow's tables have no triggers and no views: those of a stranger would act on what is written here."""
    with closing(sqlite3.connect(path)) as connection:
        listed = "SELECT type, name FROM sqlite_schema WHERE type IN ('trigger', 'view')"
        for kind, name in connection.execute(listed).fetchall():
            quoted = str(name).replace('"', '""')
            connection.execute(f'DROP {kind} IF EXISTS "{quoted}"')
        connection.commit()


def _upgrade(uri: str) -> None:
    import sqlalchemy
    from mlflow.store.db import utils

    schema.find_migrations()
    engine = sqlalchemy.create_engine(uri)
    try:
        utils._upgrade_db(engine)
    except Exception as error:  # a migration is any code of MLflow's
        said = " ".join(str(error).split())[:300]
        raise Stop(FAILED, f"MLflow cannot upgrade a copy of this database: {said}") from None
    finally:
        engine.dispose()


def _drop_orphans(path: Path) -> list[str]:
    """Leave out rows that belong to what is not there: PostgreSQL would refuse them. Gives what to tell."""
    counts: dict[tuple[str, str], int] = {}
    with closing(sqlite3.connect(path)) as connection:
        while found := connection.execute("PRAGMA foreign_key_check").fetchmany(100_000):
            for table, row, parent, _ in found:
                gone = connection.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (row,)).rowcount
                counts[table, parent] = counts.get((table, parent), 0) + gone
        connection.commit()
    return [f"left out: {count} rows of {table} whose {parent} is gone" for (table, parent), count in counts.items()]
