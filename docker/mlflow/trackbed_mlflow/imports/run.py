"""`import`: a source from stdin into this project's database, or only counted; what came is told as JSON lines."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import ExitStack, closing
from typing import Any, BinaryIO, cast

from trackbed_mlflow import preparation
from trackbed_mlflow.errors import FAILED, Stop, required
from trackbed_mlflow.imports import beside, locations, merging, rows
from trackbed_mlflow.imports.staging import Staged, staged

EVERY = 50_000  # rows between two words about how far it is


def run(kind: str, show: bool, into_others: bool = False, merge: bool = False) -> None:
    """``show``: count only. Lines: {"rows": done, "of": all}, {"location": ...} and at the end {"end": ...}.

    ``into_others``: into a database that has other data, in a conversation. {"ask": "reserved"} is answered with a line
    of what an interrupted import had reserved. {"reserved": ...}, the locations and {"plan": ...} follow. Nothing is
    written before the line "commit"; without it nothing ever is. ``merge``: what has a name that is taken joins it.
    """
    try:
        if into_others:
            _run_beside(kind, show, merge)
        else:
            _run(kind, show)
    except (ValueError, OSError, sqlite3.Error) as error:  # what a source may hold, and a full disk
        raise Stop(FAILED, f"the source cannot be read: {' '.join(str(error).split())[:300]}") from None


def _run(kind: str, show: bool) -> None:
    with staged(kind, sys.stdin.buffer) as source:
        with closing(sqlite3.connect(source.path)) as connection:
            source.remarks += locations.rewrite(connection)
        counts = _fill(source, show)
        with closing(sqlite3.connect(source.path)) as connection:
            for one in locations.locations(connection):
                _tell(location=one.as_dict())
    _tell(end={"counts": counts, "remarks": source.remarks, "unread": source.unread})


class Available:
    """A stream that gives what has come: whoever writes it waits for an answer, and sends no more until then."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, count: int = -1) -> bytes:
        return self._stream.read1(count)  # type: ignore[attr-defined, no-any-return]


def _run_beside(kind: str, show: bool, merge: bool) -> None:
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    with ExitStack() as stack:
        source = stack.enter_context(staged(kind, cast("BinaryIO", Available(sys.stdin.buffer))))
        _tell(ask="reserved")
        reserved = json.loads(_answer() or "{}")
        target = sqlalchemy.create_engine(required(os.environ, "MLFLOW_BACKEND_STORE_URI"), poolclass=NullPool)
        ask, reserve = merging.asking(target)
        if show:  # numbers that are only shown to nobody
            reserve = iter(range(locations.LARGEST, 0, -1)).__next__
        else:
            stack.enter_context(merging.alone(target))
        with closing(sqlite3.connect(source.path)) as connection:
            plan = beside.plan(connection, ask, reserve, reserved, merge)
            _tell(reserved=plan.reserved, stale=plan.stale)
            for one in locations.locations(connection):
                _tell(location=one.as_dict())
        _tell(plan={"remarks": [*source.remarks, *plan.remarks], "unread": source.unread})
        if not show and _answer() != "commit":
            raise Stop(FAILED, "nobody said that the artifacts are there; nothing was imported")
        staging = sqlalchemy.create_engine(f"sqlite:///{source.path}", poolclass=NullPool)
        whole = sum(rows.counts(staging).values())
        merged = merging.merge(staging, target, _telling(whole), write=not show)
    remarks = [*source.remarks, *plan.remarks, *merged.lines()]
    _tell(end={"counts": dict(merged.added), "remarks": remarks, "unread": source.unread})


def _answer() -> str:
    """The next line, "" at the end. Empty ones are signs of life; what a tar stream has behind its end is none."""
    while line := sys.stdin.buffer.readline():
        if text := line.lstrip(b"\0").decode().strip():
            return text
    return ""


def _telling(whole: int) -> rows.Tell:
    told = 0

    def tell(done: int) -> None:
        nonlocal told
        if done - told >= EVERY:
            told = done
            _tell(rows=done, of=whole)

    return tell


def _fill(source: Staged, show: bool) -> dict[str, int]:
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    staging = sqlalchemy.create_engine(f"sqlite:///{source.path}", poolclass=NullPool)
    counts = rows.counts(staging)
    if show:
        return counts
    preparation.make_tables()
    target = sqlalchemy.create_engine(required(os.environ, "MLFLOW_BACKEND_STORE_URI"), poolclass=NullPool)
    source.remarks += rows.copy(staging, target, _telling(sum(counts.values())))
    return counts


def _tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)
