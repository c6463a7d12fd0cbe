"""The database: a consistent dump with the counts and checksums of that very snapshot, and restoring it beside the old.

Only PostgreSQL's own programs, run inside the service, so that they are of the server's version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from helpers import commands, database_settings
from helpers.engines.streaming import Pipe
from helpers.errors import TrackbedError
from helpers.services import POSTGRES

if TYPE_CHECKING:
    from helpers.engines.base import Engine

NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
PSQL = ("psql", "-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "-U", database_settings.USER)
LONG = 24 * 3600.0
COMPRESSION = 1  # gzip's, which every build of pg_restore knows: half of the time of its default, a quarter larger
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
MOMENT = "SELECT extract(epoch FROM clock_timestamp()), pg_current_snapshot()"
# of each row's text, in any order; the same on every version since 12. A cast to text could be somebody's function
ROWS = (
    "SELECT '{name}', count(*), "
    "coalesce(sum(('x' || substr(md5(format('%s', {row})), 1, 15))::bit(60)::bigint::numeric), 0) "
    'FROM public."{name}" t'
)


@dataclass(frozen=True)
class Contents:
    """What a database holds: schema revision ("" none), and per table its rows and their checksum. ``moment``: of a
    dump, seconds since the epoch and the transactions that it sees."""

    schema: str
    tables: dict[str, list[str]]
    moment: tuple[float, str] = (0.0, "")

    @property
    def runs(self) -> int:
        return int(self.tables.get("runs", ["0"])[0])


class Session:
    """A psql session in the service; one transaction lasts as long as it is open."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def ask(self, statement: str) -> list[str]:
        """The lines of the answer. Raises TrackbedError with what the server said."""
        self._send(statement)
        return self._answer()

    def _send(self, statement: str) -> None:
        try:
            self._pipe.into.write(f"{statement};\n\\echo ---\n".encode())
            self._pipe.into.flush()
        except BrokenPipeError:
            self._pipe.finish()

    def _answer(self) -> list[str]:
        lines: list[str] = []
        for line in self._pipe.out:
            text = line.decode("utf-8", "replace").rstrip("\n")
            if text == "---":
                return lines
            lines.append(text)
        self._pipe.finish()
        raise TrackbedError("the database ended the connection", "`invoke status` shows whether it runs")

    def contents(self, columns: Mapping[str, Sequence[str]] | None = None) -> Contents:
        """``columns``: of these tables, in this order, where another than the table's own is meant."""
        return self.begin_contents(columns)()

    def begin_contents(self, columns: Mapping[str, Sequence[str]] | None = None) -> Callable[[], Contents]:
        """The same: the database counts meanwhile, and what is given waits for it. Nothing else is to be asked before.

        The answer is of some bytes for each table, which psql's pipe takes.
        """
        names = [name for name in self.ask(TABLES) if re.fullmatch(r"\w+", name)]
        schema = self.ask("SELECT version_num FROM alembic_version") if "alembic_version" in names else []
        if names:
            self._send(
                " UNION ALL ".join(ROWS.format(name=name, row=_row((columns or {}).get(name))) for name in names)
            )

        def counted() -> Contents:
            rows = self._answer() if names else []
            return Contents(",".join(schema), {name: [count, total] for name, count, total in map(str.split, rows)})

        return counted


def _row(columns: Sequence[str] | None) -> str:
    """A row of a table `t`, as a whole or as these columns of it."""
    return "t" if columns is None else f"ROW({', '.join(f't.{chr(34)}{column}{chr(34)}' for column in columns)})"


@contextmanager
def session(engine: Engine, database: str) -> Iterator[Session]:
    """A read-only look at one moment of a database."""
    with engine.pipe(POSTGRES, (*PSQL, "-d", database)) as pipe:
        opened = Session(pipe)
        opened.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield opened


def contents(engine: Engine, database: str, columns: Mapping[str, Sequence[str]] | None = None) -> Contents:
    with session(engine, database) as opened:
        return opened.contents(columns)


@dataclass(frozen=True)
class Dump:
    """pg_dump's stream of one moment, and the contents of that very moment: ask for them behind its end."""

    stream: IO[bytes]
    contents: Callable[[], Contents]


@contextmanager
def dump(engine: Engine, database: str) -> Iterator[Dump]:
    """The database counts its rows while pg_dump reads them."""
    with session(engine, database) as opened:
        snapshot = opened.ask("SELECT pg_export_snapshot()")[0]
        seconds, seen = opened.ask(MOMENT)[0].split()
        counted = opened.begin_contents()
        command = (
            "pg_dump",
            "-Fc",
            f"--compress={COMPRESSION}",
            "--no-owner",
            "--no-privileges",
            f"--snapshot={snapshot}",
            "-U",
            database_settings.USER,
            "-d",
            database,
        )
        with engine.pipe(POSTGRES, command) as pipe:
            yield Dump(pipe.out, lambda: replace(counted(), moment=(float(seconds), seen)))
            pipe.finish(LONG)


def _statement(engine: Engine, *statements: str) -> str:
    """As the superuser, and never in a database whose owner could have laid something there."""
    options = [word for statement in statements for word in ("-c", statement)]
    done = engine.exec(
        POSTGRES, (*PSQL[:-1], engine.deployment.database_admin, "-d", "postgres", *options), timeout=600
    )
    if f'role "{database_settings.ADMIN}" does not exist' in done.stderr:
        raise TrackbedError(
            "the database has the roles of an earlier version",
            "`invoke up` brings it to this one; then run the same command again",
        )
    if done.code:
        said = commands.last_line(done.stderr, str(done.code))
        raise TrackbedError(f"the database refuses: {said}", "`invoke logs postgres`")
    return done.stdout.strip()


def _checked(name: str) -> str:
    if not NAME.match(name):
        raise TrackbedError(f"{name!r} is not the name of a database", "please report it")
    return name


def databases(engine: Engine) -> tuple[str, ...]:
    return tuple(_statement(engine, "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1").split())


def create(engine: Engine, name: str, template: str = "template0") -> None:
    """A new database, empty or a copy of ``template`` (which nobody may be connected to)."""
    if template != "template0":
        disconnect(engine, template)
    _statement(
        engine,
        f'CREATE DATABASE "{_checked(name)}" OWNER {database_settings.USER} TEMPLATE "{_checked(template)}"',
        f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',
    )


def disconnect(engine: Engine, name: str) -> None:
    """End what everybody does in a database."""
    _statement(
        engine,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608  # checked
        f"WHERE datname = '{_checked(name)}' AND pid <> pg_backend_pid()",
    )


def drop(engine: Engine, name: str) -> None:
    _statement(engine, f'DROP DATABASE IF EXISTS "{_checked(name)}" WITH (FORCE)')


def check(engine: Engine, name: str, expected: dict[str, list[str]], columns: Mapping[str, Sequence[str]]) -> None:
    """Every table has the rows it should have, by count and checksum; ``columns``: their order in the dump."""
    result = contents(engine, name, columns).tables
    for table in sorted(result):
        if result[table] != expected.get(table):
            raise TrackbedError(
                f"table {table} has (rows, checksum) {result[table]}, not {expected.get(table)}",
                "nothing was changed; please report it",
            )
