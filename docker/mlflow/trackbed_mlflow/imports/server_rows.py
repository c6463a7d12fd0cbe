"""The rows of a database on a server, which come as blocks of JSON (helpers/imports/databases.py).

MLflow's own migrations make the tables of the source's revision in the staging database; then it is as any other.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from trackbed_mlflow import schema
from trackbed_mlflow.errors import FAILED, Stop
from trackbed_mlflow.imports.file_store import files
from trackbed_mlflow.imports.rows import Sum

ABOUT = "about.json"


class ServerRows:
    """``revision``: of the source's schema; ``remarks``: what did not come, in lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.revision, self.remarks = "", list[str]()
        self._counts: dict[str, int] = {}
        self._sums: dict[str, Sum] = {}
        self._columns: dict[str, list[str]] = {}

    def read(self, stream: BinaryIO) -> None:
        """All of a tar stream. Raises Stop where the tables do not have what came, or less than the source has."""
        blocks = files(stream)
        name, content = next(blocks, ("", None))
        if name != ABOUT or content is None:
            raise Stop(FAILED, f"{name!r} is no beginning of a database's rows")
        self._begin(json.load(content))
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA synchronous = OFF")  # it is made again after a crash
            for table in self._counts:
                connection.execute(f'DELETE FROM "{table}"')  # a migration may have written some
            for name, content in blocks:
                top, _, rest = name.partition("/")
                table = rest.partition("/")[0]
                if top != "rows" or table not in self._counts:
                    raise Stop(FAILED, f"{name!r} does not belong to a database's rows")
                self._store(connection, table, json.load(content))
            connection.commit()
            for table in self._counts:
                self._compare(connection, table)

    def _begin(self, about: dict[str, Any]) -> None:
        self.revision = str(about["revision"])
        if schema.known(self.revision) == "newer":
            raise Stop(FAILED, f"the database has the schema {self.revision} of a newer MLflow than this project's")
        schema.make(f"sqlite:///{self._path}", self.revision)
        with closing(sqlite3.connect(self._path)) as connection:
            made = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        counts = {str(table): int(count) for table, count in about["counts"].items()}
        self._counts = {table: count for table, count in counts.items() if table in made}
        self._sums = {table: Sum() for table in self._counts}
        foreign = [*about["foreign"], *(table for table in counts if table not in made)]
        if named := sorted(name for name in foreign if name not in made):
            self.remarks.append(f"left out, because they are no tables of MLflow's own: {', '.join(named)}")

    def _store(self, connection: sqlite3.Connection, table: str, block: dict[str, Any]) -> None:
        columns = self._fitting(connection, table, block["columns"])
        places = [place for place, name in enumerate(block["columns"]) if name in columns]
        names = ", ".join(f'"{block["columns"][place]}"' for place in places)
        rows = [tuple(_cell(row[place]) for place in places) for row in block["rows"]]
        for row in rows:
            self._sums[table].add(row)
        marks = ", ".join("?" * len(places))
        try:
            connection.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', rows)
        except sqlite3.IntegrityError as error:
            raise Stop(FAILED, f"table {table} does not take the source's rows: {error}") from None

    def _fitting(self, connection: sqlite3.Connection, table: str, columns: list[str]) -> list[str]:
        """The columns of a table that both have."""
        if table not in self._columns:
            made = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
            self._columns[table] = [name for name in columns if name in made]
            if others := [name for name in columns if name not in made]:
                self.remarks.append(f"left out, because it is not MLflow's own: {', '.join(others)} of table {table}")
        return self._columns[table]

    def _compare(self, connection: sqlite3.Connection, table: str) -> None:
        """What the table has now is what came, and as much as the source counted."""
        found = Sum()
        if columns := self._columns.get(table):
            kinds = {row[1]: row[2] for row in connection.execute(f'PRAGMA table_info("{table}")')}
            # SQLite makes a number of a JSON text that looks like one
            names = (f'CAST("{name}" AS TEXT)' if kinds[name] == "JSON" else f'"{name}"' for name in columns)
            for row in connection.execute(f'SELECT {", ".join(names)} FROM "{table}"'):
                found.add(row)
        if found.count != self._counts[table] or found.text != self._sums[table].text:
            raise Stop(
                FAILED,
                f"table {table} has {self._counts[table]} rows in the source, and {found.count} came that are not "
                "those: please report it",
            )


def _cell(value: Any) -> Any:
    return base64.b64decode(value[0]) if isinstance(value, list) else value
