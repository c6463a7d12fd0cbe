"""A MySQL or MariaDB database that is only read, in one transaction that sees one moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from helpers.errors import SettingError, TrackbedError
from helpers.imports.databases import Server, WrongPassword

# in an address, as MLflow's server takes them
TLS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "ssl_verify_identity", "ssl_disabled")
FILES = ("ssl_ca", "ssl_cert", "ssl_key")
IGNORED = ("charset",)  # the server gives what it has in UTF-8, whatever it is stored in
# the server would give up while the MLflow service is at work; and it would take a table's rows away
SESSION = (
    "SET SESSION net_write_timeout = 3600, net_read_timeout = 3600, wait_timeout = 28800, lock_wait_timeout = 60",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET SESSION TRANSACTION READ ONLY",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)
TABLES = "SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE() AND \
table_type = 'BASE TABLE' ORDER BY 1"
COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s \
AND extra NOT LIKE '%%GENERATED' ORDER BY ordinal_position"
DENIED, NO_RIGHT, NO_COLUMN_RIGHT = 1045, 1142, 1143
TRUE = ("1", "true", "yes", "on")
CLEAR = (b"mysql_clear_password", b"dialog")  # ways to come in that send the password as it is
# MySQL's own: over TLS as it is, else for a key that whoever answers has made; the second one only where the server
# does not remember a hash of it
SHA256, SHA2 = b"sha256_password", b"caching_sha2_password"
UNPROVEN = "it wants the password in clear text, and nothing proves whose server it is"


class _Refused:
    """Instead of the driver's way to send a password to whoever answers: it would not even want TLS for that."""

    def __init__(self, connection: object) -> None: ...

    def authenticate(self, packet: object) -> None:
        raise RuntimeError(UNPROVEN)


class _Scrambled:
    """Instead of the driver's: answers the server's question with a hash, and with nothing else."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def authenticate(self, packet: Any) -> Any:
        from pymysql._auth import scramble_caching_sha2

        if packet.is_auth_switch_request():
            nonce = packet.read_all().removesuffix(b"\0")
            self._connection.write_packet(scramble_caching_sha2(self._connection.password, nonce))
        elif packet.get_all_data() != b"\x01\x03":  # the hash is right
            raise RuntimeError(UNPROVEN)
        return self._connection._read_packet()


def _careful() -> type[Any]:
    """A connection to a server that nothing proves."""
    from pymysql.connections import Connection

    class Careful(Connection):  # type: ignore[misc, type-arg, unused-ignore]
        def _get_server_information(self) -> None:
            super()._get_server_information()
            greeting: Any = vars(self)
            if greeting["_auth_plugin_name"].encode() == SHA256:  # else the first answer is the password already
                greeting["_auth_plugin_name"] = "mysql_native_password"

    return Careful


class MySQL:
    def __init__(self, server: Server, connection: Any) -> None:
        self._server, self._connection = server, connection

    def _ask(self, statement: str, *words: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, words)
            return list(cursor.fetchall())

    def tables(self) -> list[str]:
        return [str(name) for name, _ in self._ask(TABLES)]

    def columns(self, table: str) -> list[str]:
        engine = dict(self._ask(TABLES))[table]
        if str(engine).lower() != "innodb":
            raise TrackbedError(
                f"{self._server}: table {table} is kept by {engine}, which does not show one moment of it",
                "copy the database to a server where that table is InnoDB's, and import the copy",
            )
        return [str(row[0]) for row in self._ask(COLUMNS, table)]

    def count(self, table: str) -> int:
        return int(self._ask(f"SELECT count(*) FROM {_quoted(table)}")[0][0])  # noqa: S608 (quoted)

    @contextmanager
    def rows(self, table: str, columns: list[str]) -> Iterator[Callable[[int], list[tuple[Any, ...]]]]:
        from pymysql.cursors import SSCursor

        chosen = ", ".join(map(_quoted, columns))
        with self._connection.cursor(SSCursor) as cursor:  # rows come when they are asked for
            cursor.execute(f"SELECT {chosen} FROM {_quoted(table)}")  # noqa: S608 (quoted)
            yield lambda limit: list(cursor.fetchmany(limit))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@contextmanager
def opened(server: Server) -> Iterator[MySQL]:
    import pymysql

    words = _words(server)
    connect = _careful() if SHA256 in words.get("auth_plugin_map", {}) else pymysql.connect
    try:
        with closing(connect(**words)) as connection:
            with connection.cursor() as cursor:
                for statement in SESSION:
                    cursor.execute(statement)
            yield MySQL(server, connection)
            connection.rollback()
    except (pymysql.MySQLError, OSError, RuntimeError) as error:
        raise _failed(server, error) from None
    except UnicodeError:
        raise TrackbedError(f"{server} has text that is not in its character set", "please report it") from None


def _words(server: Server) -> dict[str, Any]:
    """Of the driver. Raises SettingError for what is none of it."""
    unknown = [name for name in server.options if name not in (*TLS, *IGNORED, "unix_socket")]
    if unknown:
        raise SettingError(
            f"{server}: Trackbed does not know {', '.join(sorted(unknown))} in a MySQL address.",
            f"it knows {', '.join((*TLS, 'unix_socket'))}",
        )
    result: dict[str, Any] = {
        "user": server.user or None,
        "password": password.encode() if (password := _password(server)) else None,
        "host": server.host,
        "port": server.port,
        "database": server.database,
        "unix_socket": server.options.get("unix_socket"),
        "charset": "utf8mb4",
        "connect_timeout": 15,
        "read_timeout": 3600,  # a count of many rows
        "write_timeout": 60,
        "read_default_file": "~/.my.cnf",
        "program_name": "trackbed import",
    }
    for name in TLS:
        if word := server.options.get(name):
            result[name] = word if name in FILES else word.lower() in TRUE
    if result.get("ssl_verify_identity") and "ssl_ca" not in result:
        raise SettingError(  # the driver would look at no name then
            f"{server}: ssl_verify_identity needs a CA.", "name it: ?ssl_ca=FILE&ssl_verify_identity=true"
        )
    given_up = result.get("ssl_verify_cert") is False  # it is the user's word that the server need not be proven
    if "ssl_ca" in result:
        result.setdefault("ssl_verify_cert", True)
    if not result.get("ssl_verify_cert") or result.get("ssl_disabled"):
        result["auth_plugin_map"] = dict.fromkeys(CLEAR, _Refused)
        if not (given_up or result["unix_socket"]):
            result["auth_plugin_map"] |= {SHA256: _Refused, SHA2: _Scrambled}
    return result


def _password(server: Server) -> str | None:
    return server.password if server.password is not None else os.environ.get("MYSQL_PWD")


def _failed(server: Server, error: Exception) -> TrackbedError:
    said = server.without_secrets(error)
    code = error.args[0] if error.args else None
    if code == DENIED:
        return WrongPassword(
            f"{server} does not let Trackbed in: {said}",
            "give the password in MYSQL_PWD or in [client] of ~/.my.cnf, or type the command on a terminal: there "
            "Trackbed asks",
        )
    if code in (NO_RIGHT, NO_COLUMN_RIGHT):
        return TrackbedError(
            f"{server} does not let that user read everything: {said}",
            "let its owner type GRANT SELECT ON that database TO that user, then try again",
        )
    if "LOAD_LOCAL" in said:
        return TrackbedError(
            f"{server} asks for a file of this machine, and got none: no server of MLflow's does that",
            "is it the server that you mean? Name another, or ask who runs it",
        )
    if isinstance(error, RuntimeError):  # the driver's word for a password that it will not send
        return TrackbedError(
            f"{server} asks for a password in a way that needs TLS: {said}",
            "name the CA of the server in the address, as in ?ssl_ca=FILE (its owner has it: ca.pem in MySQL's data "
            "folder); where nobody can be in between, as in a tunnel, ?ssl_verify_cert=false does",
        )
    return TrackbedError(
        f"{server} cannot be read: {said}",
        "does it answer this machine at that address? Then run the same command again",
    )
