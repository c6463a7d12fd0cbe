"""Restoring the database: the rows of MLflow's tables, into tables that MLflow itself makes.

A dump is a program of whoever made it: pg_restore runs all SQL that is in it. Here nothing of it is run. MLflow's own
migrations make the tables, pg_restore unpacks without a database, and of what it writes only the rows of those tables
and the positions of their sequences are taken, between statements of ours.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from helpers import clone, database_settings
from helpers.backups.disk_space import Watch
from helpers.data import database
from helpers.engines.base import POSTGRES, Engine
from helpers.engines.streaming import BLOCK, Pipe
from helpers.errors import TrackbedError

TOC = 4 * 2**20  # bytes of a dump that its table of contents is in; MLflow's takes a tenth of a MiB
LINE = 2**16  # bytes of a line outside of the rows
REVISION = "alembic_version"  # the migrations write it
# the comment: somebody has removed our indexes (trackbed_mlflow/indexes.py); the server makes them on what is restored
OURS = re.compile(r"(INDEX public trackbed_\w+|COMMENT public TABLE runs)")
EVERY_DATABASE = re.compile(r"(SCHEMA - public|COMMENT - SCHEMA public|ACL - SCHEMA public)")

_COPY = re.compile(rb'COPY public\."?(\w+)"? \(([\w", ]+)\) FROM stdin;')
_POSITION = re.compile(rb"SELECT pg_catalog\.setval\('public\.(\w+)', (\d{1,19}), (true|false)\);")
# what pg_restore writes around rows; none of it is passed on
_FRAME = re.compile(
    rb"|--.*|\\(un)?restrict \w+|SET \w+ = [\w']+;|SELECT pg_catalog\.set_config\('search_path', '', "
    rb"false\);"
)
_ENCODING = re.compile(rb"SET client_encoding = .*")

COMPUTED = "*"  # behind the name of a column that PostgreSQL computes: no dump has its values
TABLES = (
    "SELECT c.relname, string_agg(a.attname || CASE a.attgenerated WHEN '' THEN '' ELSE "  # noqa: S608
    f"'{COMPUTED}' END, ' ' ORDER BY a.attnum) FROM pg_class c JOIN pg_attribute a "
    "ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
    "WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY 1"
)
SEQUENCES = "SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
# keys and indexes are made again behind the rows: that is quicker, and rows do not come in the order of the keys
FOREIGN = (
    "SELECT format('ALTER TABLE %s {}', conrelid::regclass, conname{}) FROM pg_constraint WHERE contype = 'f' "
    "AND connamespace = 'public'::regnamespace ORDER BY conname"
)
KEYS = FOREIGN.replace("= 'f'", "IN ('p', 'u')")
INDEXES = (
    "SELECT {} FROM pg_index WHERE indrelid IN (SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = "
    "'public'::regnamespace) AND indexrelid NOT IN (SELECT conindid FROM pg_constraint) ORDER BY 1"
)
ADD, DROP = ("ADD CONSTRAINT %I %s", ", pg_get_constraintdef(oid)"), ("DROP CONSTRAINT %I", "")


class Refused(TrackbedError):
    """The dump is not one that `invoke backup` makes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the backup's database dump {what}", "nothing was changed; use another backup")


@dataclass
class Schema:
    """MLflow's tables in a database, with their columns, and its sequences; how to take keys away and bring them back.

    A column that PostgreSQL computes has COMPUTED behind its name. ``read`` gets the columns of each table in the order
    in which the dump has them, the computed ones behind those that they follow here.
    """

    tables: dict[str, tuple[str, ...]]
    sequences: tuple[str, ...]
    drops: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    read: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def stored(self, table: str) -> set[str]:
        """The columns of a table whose values a dump has."""
        return {column for column in self.tables[table] if not column.endswith(COMPUTED)}

    def note(self, table: str, columns: tuple[str, ...]) -> None:
        """The dump has these columns of a table, in this order."""
        whole = list(columns)
        for before, column in zip(("", *self.tables[table]), self.tables[table], strict=False):
            if column.endswith(COMPUTED):
                before = before.removesuffix(COMPUTED)
                whole.insert(whole.index(before) + 1 if before in whole else 0, column.removesuffix(COMPUTED))
        self.read[table] = tuple(whole)


def schema(engine: Engine, name: str) -> Schema:
    """What is in the database ``name``, which has just been made."""
    with database.session(engine, name) as opened:
        opened.ask("SET LOCAL search_path = ''")  # names with their schema
        tables = {table: tuple(columns) for table, *columns in map(str.split, opened.ask(TABLES))}
        unindexed = opened.ask(INDEXES.format("'DROP INDEX ' || indexrelid::regclass"))
        indexed = opened.ask(INDEXES.format("pg_get_indexdef(indexrelid)"))
        drops = (*opened.ask(FOREIGN.format(*DROP)), *unindexed, *opened.ask(KEYS.format(*DROP)))
        adds = (*opened.ask(KEYS.format(*ADD)), *indexed, *opened.ask(FOREIGN.format(*ADD)))
        return Schema(tables, tuple(opened.ask(SEQUENCES)), drops, adds)


def template(revision: str) -> str:
    """The statements that make MLflow's schema of that revision; "" where they are not beside the server's files."""
    first, _, text = (clone.SERVER_PACKAGE / "schema.sql").read_text("utf-8").partition("\n")
    return text if first == f"-- revision {revision}" else ""


def fill(engine: Engine, name: str, statements: str) -> None:
    """Run statements of ours in a database, all or none."""
    done = engine.exec(POSTGRES, (*database.PSQL, "-1", "-f", "-", "-d", name), statements.encode())
    if done.code:
        raise TrackbedError(
            f"MLflow's tables cannot be created: {done.stderr.strip()[-300:]}", "`invoke logs postgres`"
        )


def contents(engine: Engine, dump: bytes) -> set[str]:
    """What a dump holds, by kind, schema and name; ``dump``: its first TOC bytes."""
    done = engine.exec(POSTGRES, ("pg_restore", "-l"), dump[:TOC])
    if done.code:
        raise Refused(f"cannot be read: {done.stderr.strip()[-300:]}")
    result = (re.match(r"\d+; \d+ \d+ (.+) \S*$", line) for line in done.stdout.splitlines())
    return {match[1] for match in result if match}


def foreign(engine: Engine, name: str, dump: bytes) -> list[str]:
    """What is in a dump and not in MLflow's own schema, which the database ``name`` has."""
    with engine.pipe(POSTGRES, ("pg_dump", "-Fc", "-U", database_settings.USER, "-d", name)) as pipe:
        own = contents(engine, pipe.out.read())
        pipe.finish()
    result = contents(engine, dump) - own
    return sorted(entry for entry in result if not OURS.fullmatch(entry) and not EVERY_DATABASE.match(entry))


class _Lines:
    """A stream as lines, and as rows up to the mark of their end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._buffer = stream, bytearray()

    def _more(self) -> bool:
        content = self._stream.read1(BLOCK) if hasattr(self._stream, "read1") else self._stream.read(BLOCK)
        self._buffer += content
        return bool(content)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def line(self) -> bytes | None:
        """The next line without its end; None at the end."""
        while (at := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE:
                break
            if not self._more():
                if self._buffer:
                    raise Refused("ends in the middle of a line")
                return None
        if not 0 <= at <= LINE:
            raise Refused("has a line that no dump has")
        return self._take(at + 1)[:-1]

    def rows(self) -> Iterator[bytes]:
        """Rows up to the mark of their end, in blocks of any length."""
        self._buffer[:0] = b"\n"  # the mark stands alone on its line, the first one too
        begun = 1
        while True:
            at = self._buffer.find(b"\n\\.")
            whole = 0 <= at < len(self._buffer) - 3
            taken = self._take(at + 1 if whole else max(0, len(self._buffer) - 3))
            if b"\0" in taken or (whole and self._buffer[:3] != b"\\.\n"):
                raise Refused("has a row that no dump has")  # psql would take its end for that of the rows
            if taken:
                yield taken[begun:]
                begun = 0
            if whole:
                self._take(3)
                return
            if not self._more():
                raise Refused("ends in the middle of its rows")


def rows(stream: IO[bytes], of: Schema) -> Iterator[bytes]:
    """The rows in pg_restore's text for psql, each table's behind a COPY of ours. Refused for anything else in it."""
    lines = _Lines(stream)
    while (line := lines.line()) is not None:
        if copy := _COPY.fullmatch(line):
            table, columns = copy[1].decode(), tuple(word.strip('"') for word in copy[2].decode().split(", "))
            if table not in of.tables or table == REVISION or not set(columns) <= of.stored(table):
                raise Refused(f"has rows that do not fit to MLflow's table {table}")
            of.note(table, columns)
            named = ", ".join(f'"{column}"' for column in columns)
            # frozen: nobody else has seen this table, no row is to be looked at again
            yield f'COPY public."{table}" ({named}) FROM STDIN (FREEZE);\n'.encode()
            yield from lines.rows()
            yield b"\\.\n"
        elif position := _POSITION.fullmatch(line):
            if position[1].decode() not in of.sequences or int(position[2]) > 2**63 - 1:
                raise Refused("sets a sequence that is not MLflow's")
            yield b"SELECT pg_catalog.setval('public.\"%s\"', %s, %s);\n" % position.group(1, 2, 3)
        elif not _FRAME.fullmatch(line) or (_ENCODING.match(line) and line != b"SET client_encoding = 'UTF8';"):
            raise Refused(f"holds a statement that is not of MLflow's rows: {line[:80].decode('utf-8', 'replace')!r}")


class _Feeder(threading.Thread):
    """Passes the chunks of a dump on, beside what is read of it. What reading them raises is raised at the end."""

    def __init__(self, pipe: Pipe, chunks: Iterator[IO[bytes]]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._chunks = pipe, chunks
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            for chunk in self._chunks:
                while data := chunk.read(BLOCK):
                    self._pipe.into.write(data)
        except (BrokenPipeError, ValueError):
            pass  # whoever reads has ended, and tells why
        except BaseException as error:
            self._error = error
        finally:
            self._pipe.close()

    def __enter__(self) -> _Feeder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.out.close()  # nobody reads on: it is not to wait for that
        self.end()

    def end(self) -> None:
        self.join()
        if self._error:
            raise self._error


def load(engine: Engine, name: str, of: Schema, chunks: Iterator[IO[bytes]], disk: Watch) -> None:
    """The rows of a dump into MLflow's empty tables in the database ``name``; all of them, or an error.

    ``disk`` is looked at while rows are unpacked and while their keys and indexes are made.
    """
    tables = [table for table in of.tables if table != REVISION]
    unpack = (
        "pg_restore",
        "--section=data",
        "--no-owner",
        "--no-privileges",
        "-n",
        "public",
        *(f"--table={table}" for table in (*tables, *of.sequences)),
        "-f",
        "-",
    )
    # restricted: psql takes no command but SQL from here on, whatever follows an error
    begin = [
        f"\\restrict {secrets.token_hex(16)}",
        "SET client_encoding = 'UTF8';",
        "SET search_path = '';",
        "SET client_min_messages = warning;",
        "BEGIN;",
        *(f"{statement};" for statement in of.drops),
        *(f'TRUNCATE public."{table}";' for table in tables),
    ]
    end = [*(f"{statement};" for statement in of.adds), "COMMIT;"]
    with (
        engine.pipe(POSTGRES, unpack) as unpacked,
        _Feeder(unpacked, chunks) as feeder,
        engine.pipe(POSTGRES, (*database.PSQL, "-o", "/dev/null", "-d", name)) as into,
    ):
        try:
            _send(into, begin)
            for block in rows(unpacked.out, of):
                into.into.write(block)
                disk.took(len(block))
            feeder.end()
            unpacked.finish()
            disk.look_twice("keys and indexes")
            _send(into, end)
        except BrokenPipeError:
            pass  # finish tells why
        _wait(engine, name, into, disk)
        into.finish()


def _wait(engine: Engine, name: str, into: Pipe, disk: Watch) -> None:
    """Look at the disk until psql has ended. Where that is full, PostgreSQL is told to stop."""
    latest = time.monotonic() + database.LONG
    try:
        while not into.ended(disk.seconds) and time.monotonic() < latest:
            disk.look()
    except TrackbedError:
        with suppress(TrackbedError):  # the copy is dropped in any case
            database.disconnect(engine, name)  # a backend that makes an index does not see that psql has gone
        raise


def _send(pipe: Pipe, statements: list[str]) -> None:
    pipe.into.write("".join(f"{statement}\n" for statement in statements).encode())
