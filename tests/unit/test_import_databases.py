"""Addresses of databases, their passwords, and the blocks in which their rows come."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pymysql
import pytest

from helpers.errors import SettingError, TrackbedError
from helpers.imports import databases, mysql, postgresql, sources
from helpers.imports.databases import Server, WrongPassword
from helpers.imports.sources import ROWS
from tests.conftest import PATIENCE

SECRET = "correct-horse"


@pytest.mark.parametrize(
    "text, shown, password",
    [
        ("postgresql+psycopg2://u:correct-horse@h:5433/db", "postgresql://u@h:5433/db", SECRET),
        ("postgres://u:a%40b%2Fc@h/db", "postgresql://u@h/db", "a@b/c"),
        ("postgresql://u:p/q?r@h/db", "postgresql://u@h/db", "p/q?r"),  # SQLAlchemy takes it too
        ("postgresql://h/db?user=u&password=correct-horse&sslmode=require", "postgresql://u@h/db", SECRET),
        ("mysql+pymysql://u@[::1]:3307/db", "mysql://u@::1:3307/db", None),
        ("mariadb://u:@h/db?ssl_ca=/ca.pem", "mysql://u@h/db", ""),
    ],
)
def test_an_address_is_shown_without_its_password(text: str, shown: str, password: str | None) -> None:
    source = sources.source(text)
    assert source.server is not None and (source.kind, str(source), source.server.password) == (ROWS, shown, password)
    assert SECRET not in f"{source!r} {source}"


@pytest.mark.parametrize("text", ["postgresql://u:correct-horse@x@h/db", "mysql://u:correct-horse@h", "postgresql:x"])
def test_an_address_of_another_form_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        sources.source(text)
    assert SECRET not in f"{caught.value.message} {caught.value.hint}" and "%40" in caught.value.hint


def test_what_a_driver_says_has_no_password() -> None:
    server = databases.server("postgresql://u@h/db?sslpassword=tls-secret&sslmode=require")
    server = replace(server, password=SECRET)
    said = server.without_secrets(RuntimeError(f"cannot\n require {SECRET} tls-secret"))
    assert said == "cannot require *** ***"


class Fake:
    """A database in memory; notes how many rows were asked for at once."""

    def __init__(self, tables: dict[str, list[tuple[Any, ...]]]) -> None:
        self.content, self.asked = tables, list[int]()

    def tables(self) -> list[str]:
        return list(self.content)

    def columns(self, table: str) -> list[str]:
        return [f"c{place}" for place in range(len(self.content[table][0]))]

    def count(self, table: str) -> int:
        return len(self.content[table])

    @contextmanager
    def rows(self, table: str, columns: list[str]) -> Iterator[Callable[[int], list[tuple[Any, ...]]]]:
        left = list(self.content[table])

        def read(limit: int) -> list[tuple[Any, ...]]:
            self.asked.append(limit)
            rows, left[:] = left[:limit], left[limit:]
            return rows

        yield read


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, list[tuple[Any, ...]]]], Fake]:
    def make(tables: dict[str, list[tuple[Any, ...]]]) -> Fake:
        created = Fake({"alembic_version": [("rev",)], "experiments": [(0, "Default")], **tables})

        @contextmanager
        def opened(server: Server) -> Iterator[Fake]:
            yield created

        monkeypatch.setattr(databases, "opened", opened)
        return created

    return make


SERVER = Server("postgresql", "u", "h", 0, "db")


def test_rows_come_in_blocks_of_a_bounded_size(fake: Callable[..., Fake]) -> None:
    created = fake({"runs": [("r", number) for number in range(20_000)], "spans": [("x" * 2**20,)] * 60})
    blocks = list(databases.files(SERVER))
    about = json.load(blocks[0].stream)
    assert about == {"revision": "rev", "counts": {"experiments": 1, "runs": 20_000, "spans": 60}, "foreign": []}
    assert max(created.asked) == databases.MOST
    assert max(block.size for block in blocks) <= databases.FIRST * 2**20 + 1000  # the first one of a table
    assert sorted(block.size for block in blocks)[-2] <= databases.BLOCK + 2**20 + 1000
    rows = [row for block in blocks if block.path.startswith("rows/runs/") for row in json.load(block.stream)["rows"]]
    assert rows == [["r", number] for number in range(20_000)]


def test_tables_of_others_are_named_and_not_read(fake: Callable[..., Fake]) -> None:
    fake({"users": [("name", "hash")], "job_locks": [("x",)], "runs": [("r",)]})
    blocks = list(databases.files(SERVER))
    assert json.load(blocks[0].stream)["foreign"] == ["users"]
    assert {block.path.split("/")[1] for block in blocks[1:]} == {"experiments", "runs"}


def test_a_database_of_somebody_elses_is_none(fake: Callable[..., Fake]) -> None:
    created = fake({})
    created.content["alembic_version"] = []
    with pytest.raises(TrackbedError, match="no database of MLflow's"):
        list(databases.files(SERVER))


def test_mlflows_tables_are_those_of_its_schema() -> None:
    assert {"experiments", "runs", "metrics", "spans", "webhooks"} < databases.ours()
    assert not databases.ours() & {"alembic_version", "users", "job_locks"}


def test_the_password_is_asked_for_once_where_none_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str | None] = []

    @contextmanager
    def opened(server: Server) -> Iterator[Fake]:
        tried.append(server.password)
        if server.password != SECRET:
            raise WrongPassword("refused")
        yield Fake({"alembic_version": [("rev",)], "experiments": [(0,)]})

    monkeypatch.setattr(databases, "opened", opened)
    assert databases.checked(SERVER, lambda question: SECRET).password == SECRET
    assert tried == [None, SECRET]
    for server, ask in ((SERVER, None), (replace(SERVER, password="old"), lambda question: SECRET)):
        with pytest.raises(WrongPassword):
            databases.checked(server, ask)


def test_values_are_as_sqlite_has_them() -> None:
    given = [None, True, 5, 0.1, "ü", b"\0\xff", memoryview(b"x"), Decimal(7), Decimal("0.5")]
    assert [databases.plain(one) for one in given] == [None, 1, 5, 0.1, "ü", ["AP8="], ["eA=="], 7, 0.5]
    assert databases.plain(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)).startswith("2026-01-02 03:04:05.000000")
    with pytest.raises(TrackbedError, match="none that MLflow stores"):
        databases.plain({})


def test_an_address_of_mysql_with_a_word_that_means_nothing_here() -> None:
    with pytest.raises(SettingError, match="does not know read_timeout"):
        mysql._words(databases.server("mysql://u@h/db?read_timeout=5&charset=utf8mb4"))
    words = mysql._words(databases.server("mysql://u:pässwörd@h/db?ssl_ca=/ca.pem&ssl_verify_identity=true"))
    assert words["password"] == "pässwörd".encode()
    assert (words["ssl_ca"], words["ssl_verify_cert"], words["ssl_verify_identity"]) == ("/ca.pem", True, True)


@pytest.mark.parametrize(
    "error, kind, words",
    [
        (pymysql.OperationalError(1045, "Access denied for user 'u'"), WrongPassword, "MYSQL_PWD"),
        (pymysql.OperationalError(1142, "SELECT command denied"), TrackbedError, "GRANT SELECT"),
        (RuntimeError("'cryptography' package is required"), TrackbedError, "ssl_ca"),
        (RuntimeError("**WARN**: Received LOAD_LOCAL packet but local_infile"), TrackbedError, "server that you mean"),
        (pymysql.OperationalError(2003, "Can't connect"), TrackbedError, "does it answer"),
    ],
)
def test_what_mysql_refuses_says_what_to_do(error: Exception, kind: type[TrackbedError], words: str) -> None:
    problem = mysql._failed(databases.server("mysql://u:correct-horse@h/db"), error)
    assert type(problem) is kind and words in problem.hint and SECRET not in problem.message


def test_a_postgresql_that_does_not_answer_is_told_in_words() -> None:
    with pytest.raises(TrackbedError) as caught, postgresql.opened(databases.server("postgresql://u@/db?host=/none")):
        pass
    assert "postgresql://u@/db cannot be read" in caught.value.message and "does it answer" in caught.value.hint


def _packet(number: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + bytes([number]) + content


GREETINGS = ("mysql_native_password", "caching_sha2_password", "sha256_password")
WAYS = (*mysql.CLEAR, mysql.SHA256, mysql.SHA2)


@pytest.mark.parametrize(
    "greeting, way", [*itertools.product(GREETINGS, WAYS), pytest.param("caching_sha2_password", b"", id="no switch")]
)
def test_no_mysql_server_gets_the_password_in_clear_text(greeting: str, way: bytes) -> None:
    """Before, any server that asked for it got it: without TLS, or over TLS that proves nothing.

    ``way``: to which the server switches; none: it says that it does not know the hash."""
    heard = bytearray()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.settimeout(PATIENCE)
            capabilities = 0x000AA200 | 0x8000  # protocol 4.1, secure connection, authentication by plugins
            low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16).to_bytes(2, "little")
            hello = b"\x0a8.0.0\0" + bytes(4) + b"12345678\0" + low + b"\x2d\x02\0" + high + b"\x15" + bytes(10)
            connection.sendall(_packet(0, hello + b"123456789012\0" + greeting.encode() + b"\0"))
            heard.extend(connection.recv(65536))
            number = 2
            if way:
                asked = b"\x03Password: " if way == b"dialog" else b"12345678901234567890\0"
                connection.sendall(_packet(number, b"\xfe" + way + b"\0" + asked))
                if way == mysql.SHA2:
                    heard.extend(connection.recv(65536))
                    number += 2
            if way in (mysql.SHA2, b""):
                connection.sendall(_packet(number, b"\x01\x04"))  # it wants the password itself
            heard.extend(connection.recv(65536))  # nothing, or the password, or a question for the server's key

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        address = f"mysql://u:{SECRET}@127.0.0.1:{listening.getsockname()[1]}/db"
        with pytest.raises(TrackbedError, match="clear text") as caught, mysql.opened(databases.server(address)):
            pass
        thread.join(PATIENCE)
    assert heard and SECRET.encode() not in heard and "ssl_ca" in caught.value.hint


@pytest.mark.parametrize(
    "query, refused",
    [
        ("", {*mysql.CLEAR, mysql.SHA256, mysql.SHA2}),
        ("?ssl_ca=/ca.pem", set()),
        ("?ssl_ca=/ca.pem&ssl_disabled=true", {*mysql.CLEAR, mysql.SHA256, mysql.SHA2}),
        ("?ssl_ca=/ca.pem&ssl_verify_cert=false", set(mysql.CLEAR)),
        ("?ssl_verify_cert=false", set(mysql.CLEAR)),
        ("?unix_socket=/s", set(mysql.CLEAR)),
    ],
)
def test_which_mysql_server_gets_the_password(query: str, refused: set[bytes]) -> None:
    words = mysql._words(databases.server(f"mysql://u:{SECRET}@h/db{query}"))
    assert set(words.get("auth_plugin_map", {})) == refused


def test_the_name_in_a_certificate_needs_a_ca() -> None:
    """Before, any certificate of an authority that the system trusts was taken: the driver looked at no name."""
    with pytest.raises(SettingError, match="needs a CA"):
        mysql._words(databases.server("mysql://u@h/db?ssl_verify_identity=true"))
