"""What is taken of a dump: rows of MLflow's tables, and nothing that anybody could run."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest

from helpers import clone
from helpers.backups import disk_space, loading, unpack
from helpers.backups.loading import Refused, Schema
from helpers.data import database
from helpers.engines import streaming
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.settings import DEFAULT, LAST_UP
from tests.conftest import PATIENCE

FRAME = b"""--
-- PostgreSQL database dump
--

\\restrict dKFUuLe2

-- Dumped from database version 18.4

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);
SET row_security = off;

"""
RUNS = b"COPY public.runs (run_uuid, name) FROM stdin;\n"


def schema() -> Schema:
    return Schema(
        {"runs": ("run_uuid", "name"), "metrics": ("key", "timestamp"), "alembic_version": ("version_num",)},
        ("runs_seq",),
    )


class Slow(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    def read1(self, count: int | None = -1, /) -> bytes:
        return self.read(7)


def taken(text: bytes, of: Schema | None = None) -> bytes:
    of = of or schema()
    result = b"".join(loading.rows(io.BytesIO(text), of))
    assert b"".join(loading.rows(Slow(text), of)) == result
    return result


def test_rows_come_behind_statements_of_ours() -> None:
    of = schema()
    text = (
        FRAME
        + RUNS
        + b"a\tx\\\\.\n\\\\.\tb\n\\.\n\n\n"
        + (
            b'COPY public.metrics ("timestamp", key) FROM stdin;\n\\.\n'
            b"SELECT pg_catalog.setval('public.runs_seq', 12, true);\n\n\\unrestrict dKFUuLe2\n\n"
        )
    )
    assert taken(text, of) == (
        b'COPY public."runs" ("run_uuid", "name") FROM STDIN (FREEZE);\na\tx\\\\.\n\\\\.\tb\n\\.\n'
        b'COPY public."metrics" ("timestamp", "key") FROM STDIN (FREEZE);\n\\.\n'
        b"SELECT pg_catalog.setval('public.\"runs_seq\"', 12, true);\n"
    )
    assert of.read == {"runs": ("run_uuid", "name"), "metrics": ("timestamp", "key")}


@pytest.mark.parametrize(
    "text",
    [
        b"DROP TABLE runs;\n",
        b"SELECT f();\n",
        b"\\! id\n",
        b"\\i /etc/passwd\n",
        b"\\restrict a\n\\! id\n",
        b"\\connect x\n",
        b"REFRESH MATERIALIZED VIEW public.v;\n",
        b"CREATE FUNCTION f() RETURNS int\n",
        b"ALTER SYSTEM SET x = 'y';\n",
        b"SET ROLE postgres;\n",
        b"SET session_preload_libraries = '/tmp/x.so';\n",
        b"SET client_encoding = 'LATIN1';\n",
        b"COPY public.runs (run_uuid, name) FROM PROGRAM 'id';\n",
        b"COPY public.runs FROM stdin;\n\\.\n",
        b"COPY public.runs (run_uuid, f) FROM stdin;\n\\.\n",
        b"COPY public.other (key) FROM stdin;\n\\.\n",
        b"COPY pg_catalog.pg_authid (rolname) FROM stdin;\n\\.\n",
        b'COPY public."ru""ns" (name) FROM stdin;\n\\.\n',
        b"COPY public.alembic_version (version_num) FROM stdin;\nx\n\\.\n",
        b"COPY public.runs (name) FROM stdin WHERE f();\n",
        b"COPY public.runs (name) FROM stdin; DROP TABLE runs;\n",
        b"COPY public.runs (name) TO PROGRAM 'id';\n",
        b"SELECT pg_catalog.setval('public.other', 1, true);\n",
        b"SELECT pg_catalog.setval('public.runs_seq', f(), true);\n",
        b"SELECT pg_catalog.setval('public.runs_seq', 9223372036854775808, true);\n",
        b"SELECT pg_catalog.setval('public.runs_seq', 1, true); DROP TABLE runs;\n",
        b"SELECT pg_catalog.set_config('role', 'postgres', false);\n",
        b"INSERT INTO public.runs VALUES ('a');\n",
        b"SELECT pg_catalog.lo_open('16400', 131072);\n",
        b"BEGIN;\n",
        RUNS + b"a\n\\.\r\nDROP TABLE runs;\n\\.\n",  # psql ends the rows there
        RUNS + b"a\n\\. \n\\.\n",
        RUNS + b"\\.x\n\\.\n",
        RUNS + b"a\0b\n\\.\n",
        RUNS + b"a\n",
        RUNS,
        RUNS + b"a\n\\.",
        b"--" + b"x" * loading.LINE + b"\n",
        b"-" * (loading.LINE * 2),
        b"no end",
    ],
)
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(Refused):
        taken(FRAME + text)


def test_rows_pass_whatever_their_length() -> None:
    row = b"a\t" + b"x" * (3 * streaming.BLOCK) + b"\n"
    assert taken(RUNS + row + b"\\.\n").endswith(row + b"\\.\n")


def test_the_template_is_for_its_revision_alone() -> None:
    first = (clone.SERVER_PACKAGE / "schema.sql").read_text().splitlines()[0]
    assert loading.template(first.removeprefix("-- revision ")).startswith("CREATE ")
    assert loading.template("0123") == loading.template("") == ""


@pytest.mark.parametrize(
    ("dumped", "read"),
    [
        (("start", "end", "content"), ("start", "end", "took", "content")),
        (("content", "end", "start"), ("content", "end", "took", "start")),
        (("start", "content"), ("took", "start", "content")),
    ],
)
def test_a_computed_column_is_looked_at_and_not_loaded(dumped: tuple[str, ...], read: tuple[str, ...]) -> None:
    of = Schema({"spans": ("start", "end", "took*", "content")}, ())
    of.note("spans", dumped)
    assert of.read == {"spans": read} and of.stored("spans") == {"start", "end", "content"}


class Database:
    """An engine whose psql notes what it gets and then makes indexes; the disk gets fuller as a test says."""

    def __init__(self, folder: Path, *free: int, seconds: float = 0) -> None:
        self.folder, self.noted, self.seconds = folder, folder / "noted", seconds
        self.free, self.ended = list(free), list[str]()
        self.noted.touch()

    def host_facts(self) -> Any:
        return SimpleNamespace(disk_free=self.left(), disk_path=str(self.folder), remote=False)

    def left(self, _: Path | None = None) -> int:
        return self.free.pop(0) if len(self.free) > 1 else self.free[0]

    def pipe(self, _: str, argv: tuple[str, ...]) -> AbstractContextManager[streaming.Pipe]:
        words = ["cat"] if argv[0] == "pg_restore" else ["sh", "-c", f"cat >{self.noted}; exec sleep {self.seconds}"]
        return streaming.piped(argv[0], words)

    def disconnect(self, _: Engine, name: str) -> None:
        self.ended.append(name)


def loaded(on: Database, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(disk_space, "free_space", on.left)
    monkeypatch.setattr(database, "disconnect", on.disconnect)
    engine, of = cast("Engine", on), schema()
    of.adds = ("ADD KEY",)
    disk = disk_space.Watch(engine)
    chunks: list[IO[bytes]] = [io.BytesIO(FRAME + RUNS + b"a\tb\n\\.\n")]
    loading.load(engine, "mlflow_new", of, iter(chunks), disk)
    return on.noted.read_text()


GIB = 2**30


def test_rows_are_loaded_and_their_keys_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "a\tb\n\\.\nADD KEY;\nCOMMIT;" in loaded(Database(tmp_path, 9 * GIB, seconds=0.5), monkeypatch)


def test_no_index_is_begun_that_may_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on = Database(tmp_path, 9 * GIB, 9 * GIB, 3 * GIB)  # the rows took 6
    with pytest.raises(TrackbedError, match=r"keys and indexes may need 6.0 GiB more, 3.0 GiB are left"):
        loaded(on, monkeypatch)
    assert "ADD KEY" not in on.noted.read_text()


def test_the_disk_is_looked_at_while_indexes_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on, began = Database(tmp_path, *[9 * GIB] * 6, disk_space.FREE - 1, seconds=PATIENCE), time.monotonic()
    with pytest.raises(TrackbedError, match="does not fit"):
        loaded(on, monkeypatch)
    assert on.ended == ["mlflow_new"] and time.monotonic() - began < PATIENCE


def test_the_note_of_removed_indexes_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_restore's names of what a dump has and the restored database has not."""
    ours = {"INDEX public trackbed_tag_hashes", "COMMENT public TABLE runs"}
    others = ["COMMENT public TABLE runs_of_a_site", "VIEW public best"]
    answers = iter(({"TABLE public runs"}, {"TABLE public runs", *ours, *others}))
    monkeypatch.setattr(loading, "contents", lambda engine, dump: next(answers))

    class Empty:
        @contextmanager
        def pipe(self, *_: object) -> Iterator[Any]:
            with streaming.piped("pg_dump", ["true"]) as pipe:
                yield pipe

    engine: Any = Empty()
    assert loading.foreign(engine, "new", b"") == others


def test_the_schema_of_this_version_is_known_without_asking_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, origins = list[tuple[str, ...]](), dict[str, str]()

    def one_shot(service: str, argv: tuple[str, ...]) -> Any:
        asked.append(argv)
        return SimpleNamespace(code=0, stdout="older\n")

    settings = SimpleNamespace(origin=lambda name: origins.get(name, DEFAULT))
    engine = cast("Engine", SimpleNamespace(one_shot=one_shot, settings=settings))
    revision = (clone.SERVER_PACKAGE / "schema.sql").read_text("utf-8").split("\n", 1)[0].removeprefix("-- revision ")
    assert [unpack.known(engine, revision), unpack.known(engine, "")] == ["current", "empty"]
    assert not asked
    assert unpack.known(engine, "0123456789ab") == "older" and len(asked) == 1
    origins["MLFLOW_IMAGE"] = LAST_UP  # an earlier MLflow, which `upgrade --back` has chosen
    assert unpack.known(engine, revision) == "older" and len(asked) == 2
