"""The database of another MLflow's server, read by this machine in one read-only transaction: nothing is ever written.

Trackbed's containers need not reach that server, and its password never leaves this process. The rows go to the MLflow
service as blocks of JSON: MLflow's own migrations make the tables that they belong into
(trackbed_mlflow/imports/server_rows.py).
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

from helpers import clone
from helpers.errors import SettingError, TrackbedError

SCHEME = re.compile(r"(postgres|postgresql|mysql|mariadb)(\+\w+)?:")
# as SQLAlchemy reads what MLflow's server is given: an @ in a password is written %40
URL = re.compile(
    r"(?P<scheme>\w+)(\+\w+)?://((?P<user>[^:/]*)(:(?P<password>[^@]*))?@)?"
    r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^/:?@#]*)(:(?P<port>[0-9]{1,5}))?/(?P<database>[^?#]+)(\?(?P<query>.*))?"
)
POSTGRESQL, MYSQL = "postgresql", "mysql"
# where a password is not seen by others; without one Trackbed asks
HIDDEN = {POSTGRESQL: "PGPASSWORD or ~/.pgpass", MYSQL: "MYSQL_PWD or ~/.my.cnf"}
BLOCK = 4 * 2**20  # bytes of rows that are in memory at once, about
MOST, FIRST = 5000, 8  # rows of a block, and of a table's first one: the size of the next follows from it
REVISION = "alembic_version"
NOT_DATA = (REVISION, "job_locks", "scheduler_leases")


@dataclass(frozen=True)
class Server:
    """The address of a database. The text of it has no password, and none of what may hold one."""

    scheme: str
    user: str
    host: str
    port: int
    database: str
    password: str | None = field(default=None, repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}://{user}{self.host}{f':{self.port}' if self.port else ''}/{self.database}"

    def without_secrets(self, error: Exception) -> str:
        """What a driver says, in one line."""
        text = " ".join(str(error.args[-1] if error.args and self.scheme == MYSQL else error).split())
        for secret in (self.password, *(word for name, word in self.options.items() if "pass" in name)):
            if secret and len(secret) > 3:
                text = text.replace(secret, "***")
        return text[:400]


class WrongPassword(TrackbedError):
    """The server asks for a password, and was given none or another."""


class Database(Protocol):
    """An open database at one moment."""

    def tables(self) -> list[str]:
        """The names of its tables."""

    def columns(self, table: str) -> list[str]:
        """The columns that are stored, not computed."""

    def count(self, table: str) -> int: ...

    def rows(self, table: str, columns: list[str]) -> AbstractContextManager[Callable[[int], list[tuple[Any, ...]]]]:
        """Gives the next rows, at most so many; [] at the end."""


@dataclass(frozen=True)
class Block:
    """Some rows as a file of the source's stream."""

    path: str
    size: int
    stream: io.BytesIO


def server(text: str) -> Server:
    """The address in ``text``. Raises SettingError, whose words have nothing of it."""
    match = URL.fullmatch(text)
    if match is None:
        raise SettingError(
            "The database's address has another form than postgresql://USER@HOST:PORT/DATABASE or "
            "mysql://USER@HOST:PORT/DATABASE.",
            "in a user name or password, write @ as %40, / as %2F and : as %3A; or leave the password out: "
            "then Trackbed asks for it",
        )
    options = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    password = options.pop("password", None)
    if match["password"] is not None:
        password = unquote(match["password"])
    scheme = POSTGRESQL if match["scheme"].startswith("postgres") else MYSQL
    return Server(
        scheme,
        unquote(match["user"] or options.pop("user", "")),
        match["host"].strip("[]"),
        int(match["port"] or 0),
        unquote(match["database"]),
        password,
        options,
    )


def opened(chosen: Server) -> AbstractContextManager[Database]:
    """The database as it is now, until this ends. Raises WrongPassword, TrackbedError."""
    from helpers.imports import mysql, postgresql  # the drivers: only where one is needed

    return postgresql.opened(chosen) if chosen.scheme == POSTGRESQL else mysql.opened(chosen)


def checked(chosen: Server, ask: Callable[[str], str] | None) -> Server:
    """The same server, with a password that it takes; it has a database of MLflow's. ``ask`` the user, who is there."""
    try:
        _look(chosen)
    except WrongPassword:
        if ask is None or chosen.password is not None:
            raise
        chosen = replace(chosen, password=ask(f"Password for {chosen}: "))
        _look(chosen)
    return chosen


def _look(chosen: Server) -> None:
    with opened(chosen) as database:
        _revision(chosen, database)


def files(chosen: Server) -> Iterator[Block]:
    """The revision of the schema with the number of rows of each table, then all rows in blocks."""
    with opened(chosen) as database:
        revision, known = _revision(chosen, database), ours()
        existing = database.tables()
        counts = {table: database.count(table) for table in existing if table in known}
        yield _file(
            "about.json",
            {"revision": revision, "counts": counts, "foreign": sorted(set(existing) - known - set(NOT_DATA))},
        )
        for table in counts:
            columns, number, limit = database.columns(table), 0, FIRST
            with database.rows(table, columns) as read:
                while rows := read(limit):
                    content = {"columns": columns, "rows": [[plain(cell) for cell in row] for row in rows]}
                    block = _file(f"rows/{table}/{number}", content)
                    yield block
                    fitting = BLOCK * len(rows) // max(1, block.size)
                    number, limit = number + 1, max(1, min(MOST, limit * 4, fitting))


def _file(path: str, content: dict[str, Any]) -> Block:
    data = json.dumps(content).encode()
    return Block(path, len(data), io.BytesIO(data))


def ours() -> set[str]:
    """The names of MLflow's tables that have data. Its migrations have only ever added some."""
    text = (clone.MLFLOW_FOLDER / "trackbed_mlflow" / "schema.sql").read_text("utf-8")
    return set(re.findall(r"^CREATE TABLE public\.(\w+)", text, re.MULTILINE)) - set(NOT_DATA)


def _revision(chosen: Server, database: Database) -> str:
    """Of MLflow's schema."""
    if REVISION in database.tables() and "experiments" in database.tables():
        with database.rows(REVISION, ["version_num"]) as read:
            if rows := read(2):
                return ",".join(str(row[0]) for row in rows)
    raise TrackbedError(
        f"{chosen} is no database of MLflow's: it has no revision of its schema",
        "name the database that the MLflow server there has as its backend store",
    )


def plain(cell: Any) -> Any:
    """A value as SQLite has it, in JSON. Bytes are in base64 in a list of one. Raises TrackbedError."""
    if cell is None or isinstance(cell, (str, float)):
        return cell
    if isinstance(cell, int):
        return int(cell)  # of a truth value too
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return [base64.b64encode(cell).decode("ascii")]
    if isinstance(cell, datetime):
        return cell.isoformat(" ", "microseconds")
    if isinstance(cell, date):
        return cell.isoformat()
    raise TrackbedError(f"a value of type {type(cell).__name__} is none that MLflow stores", "please report it")
