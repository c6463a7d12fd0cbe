"""What is taken of a dump: rows of MLflow's tables, and nothing that anybody could run."""

from __future__ import annotations

import io

import pytest

from helpers.backups import loading
from helpers.backups.loading import Refused, Schema

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
    return Schema({"runs": ("run_uuid", "name"), "metrics": ("key", "timestamp"), "alembic_version": ("version_num",)},
                  ("runs_seq",))


class Slow(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    def read1(self, count: int | None = -1, /) -> bytes:
        return self.read(7)


def taken(text: bytes, of: Schema | None = None) -> bytes:
    of = of or schema()
    found = b"".join(loading.rows(io.BytesIO(text), of))
    assert b"".join(loading.rows(Slow(text), of)) == found
    return found


def test_rows_come_behind_statements_of_ours() -> None:
    of = schema()
    text = FRAME + RUNS + b"a\tx\\\\.\n\\\\.\tb\n\\.\n\n\n" + (
        b'COPY public.metrics ("timestamp", key) FROM stdin;\n\\.\n'
        b"SELECT pg_catalog.setval('public.runs_seq', 12, true);\n\n\\unrestrict dKFUuLe2\n\n")
    assert taken(text, of) == (
        b'COPY public."runs" ("run_uuid", "name") FROM STDIN (FREEZE);\na\tx\\\\.\n\\\\.\tb\n\\.\n'
        b'COPY public."metrics" ("timestamp", "key") FROM STDIN (FREEZE);\n\\.\n'
        b"SELECT pg_catalog.setval('public.\"runs_seq\"', 12, true);\n")
    assert of.read == {"runs": ("run_uuid", "name"), "metrics": ("timestamp", "key")}


@pytest.mark.parametrize("text", [
    b"DROP TABLE runs;\n", b"SELECT f();\n", b"\\! id\n", b"\\i /etc/passwd\n", b"\\restrict a\n\\! id\n",
    b"\\connect x\n",
    b"REFRESH MATERIALIZED VIEW public.v;\n", b"CREATE FUNCTION f() RETURNS int\n", b"ALTER SYSTEM SET x = 'y';\n",
    b"SET ROLE postgres;\n", b"SET session_preload_libraries = '/tmp/x.so';\n", b"SET client_encoding = 'LATIN1';\n",
    b"COPY public.runs (run_uuid, name) FROM PROGRAM 'id';\n", b"COPY public.runs FROM stdin;\n\\.\n",
    b"COPY public.runs (run_uuid, f) FROM stdin;\n\\.\n", b"COPY public.other (key) FROM stdin;\n\\.\n",
    b"COPY pg_catalog.pg_authid (rolname) FROM stdin;\n\\.\n", b'COPY public."ru""ns" (name) FROM stdin;\n\\.\n',
    b"COPY public.alembic_version (version_num) FROM stdin;\nx\n\\.\n",
    b"COPY public.runs (name) FROM stdin WHERE f();\n",
    b"COPY public.runs (name) FROM stdin; DROP TABLE runs;\n", b"COPY public.runs (name) TO PROGRAM 'id';\n",
    b"SELECT pg_catalog.setval('public.other', 1, true);\n",
    b"SELECT pg_catalog.setval('public.runs_seq', f(), true);\n",
    b"SELECT pg_catalog.setval('public.runs_seq', 9223372036854775808, true);\n",
    b"SELECT pg_catalog.setval('public.runs_seq', 1, true); DROP TABLE runs;\n",
    b"SELECT pg_catalog.set_config('role', 'postgres', false);\n", b"INSERT INTO public.runs VALUES ('a');\n",
    b"SELECT pg_catalog.lo_open('16400', 131072);\n", b"BEGIN;\n",
    RUNS + b"a\n\\.\r\nDROP TABLE runs;\n\\.\n",  # psql ends the rows there
    RUNS + b"a\n\\. \n\\.\n", RUNS + b"\\.x\n\\.\n", RUNS + b"a\0b\n\\.\n", RUNS + b"a\n", RUNS, RUNS + b"a\n\\.",
    b"--" + b"x" * loading.LINE + b"\n", b"-" * (loading.LINE * 2), b"no end"])
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(Refused):
        taken(FRAME + text)


def test_rows_pass_whatever_their_length() -> None:
    row = b"a\t" + b"x" * (3 * loading.BLOCK) + b"\n"
    assert taken(RUNS + row + b"\\.\n").endswith(row + b"\\.\n")


def test_the_template_is_for_its_revision_alone() -> None:
    first = (loading.stack.MLFLOW_FOLDER / "schema.sql").read_text().splitlines()[0]
    assert loading.template(first.removeprefix("-- revision ")).startswith("CREATE ")
    assert loading.template("0123") == loading.template("") == ""


@pytest.mark.parametrize(("dumped", "read"), [
    (("start", "end", "content"), ("start", "end", "took", "content")),
    (("content", "end", "start"), ("content", "end", "took", "start")),
    (("start", "content"), ("took", "start", "content")),
])
def test_a_computed_column_is_looked_at_and_not_loaded(dumped: tuple[str, ...], read: tuple[str, ...]) -> None:
    of = Schema({"spans": ("start", "end", "took*", "content")}, ())
    of.note("spans", dumped)
    assert of.read == {"spans": read} and of.stored("spans") == {"start", "end", "content"}
