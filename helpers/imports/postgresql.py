"""A PostgreSQL database that is only read, in one transaction that sees one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from helpers.errors import TrackbedError
from helpers.imports.databases import Server, WrongPassword

# libpq knows the rest: PGPASSWORD, ~/.pgpass, PGSSLMODE and so on
CONNECTED = {
    "connect_timeout": "15",
    "keepalives_idle": "60",
    "keepalives_interval": "15",
    "keepalives_count": "4",
    "client_encoding": "utf8",
    "application_name": "trackbed import",
    "target_session_attrs": "any",
}
# in this transaction alone. Rows that a policy hides would be missing without a word.
BOUNDS = """SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL row_security = off"""
TABLES = """SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(c.oid)
AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"""
COLUMNS = """SELECT a.attname, pg_catalog.format_type(a.atttypid, NULL) FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid WHERE c.relname = %s AND c.relkind IN ('r', 'p')
AND pg_catalog.pg_table_is_visible(c.oid) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum"""
AS_THEY_ARE = ("smallint", "integer", "bigint", "boolean", "real", "double precision", "bytea")  # all else as text


class PostgreSQL:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def tables(self) -> list[str]:
        return [row[0] for row in self._connection.execute(TABLES).fetchall()]

    def columns(self, table: str) -> list[str]:
        return list(self._types(table))

    def _types(self, table: str) -> dict[str, str]:
        return dict(self._connection.execute(COLUMNS, (table,)).fetchall())

    def count(self, table: str) -> int:
        from psycopg import sql

        statement = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
        return int(self._connection.execute(statement).fetchone()[0])

    @contextmanager
    def rows(self, table: str, columns: list[str]) -> Iterator[Callable[[int], list[tuple[Any, ...]]]]:
        from psycopg import sql

        types = self._types(table)
        chosen = [
            sql.Identifier(name) + sql.SQL("" if types[name] in AS_THEY_ARE else "::pg_catalog.text")
            for name in columns
        ]
        statement = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(chosen), sql.Identifier(table))
        with self._connection.cursor(name="trackbed") as cursor:  # of the server: rows come when they are asked for
            cursor.execute(statement)
            yield cursor.fetchmany


@contextmanager
def opened(server: Server) -> Iterator[PostgreSQL]:
    import psycopg

    named = {"user": server.user, "host": server.host, "port": str(server.port or ""), "password": server.password}
    words = {**CONNECTED, **server.options, **{name: word for name, word in named.items() if word}}
    try:
        with psycopg.connect(**words, dbname=server.database, prepare_threshold=None) as connection:  # type: ignore[arg-type]
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            connection.execute(BOUNDS)
            yield PostgreSQL(connection)
            connection.rollback()
    except psycopg.Error as error:
        raise _failed(server, error) from None
    except UnicodeError:
        raise TrackbedError(f"{server} has text that is not in UTF-8", "mend it there, or in a copy of it") from None


def _failed(server: Server, error: Exception) -> TrackbedError:
    from psycopg import errors

    said = server.without_secrets(error)
    if "no password supplied" in said or "password authentication failed" in said:
        return WrongPassword(
            f"{server} does not let Trackbed in: {said}",
            "give the password in PGPASSWORD or ~/.pgpass, or type the command on a terminal: there Trackbed asks",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return TrackbedError(
            f"{server} does not let that user read everything: {said}",
            "let its owner type GRANT SELECT ON ALL TABLES IN SCHEMA public TO that user, then try again",
        )
    return TrackbedError(
        f"{server} cannot be read: {said}",
        "does it answer this machine at that address? Then run the same command again",
    )
