"""`import`: a source from stdin into this project's database, or only counted; what came is told as JSON lines."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing
from typing import Any

from trackbed_mlflow import preparation
from trackbed_mlflow.errors import FAILED, Stop, required
from trackbed_mlflow.imports import locations, rows
from trackbed_mlflow.imports.staging import Staged, staged

EVERY = 50_000  # rows between two words about how far it is


def run(kind: str, show: bool) -> None:
    """``show``: count only. Lines: {"rows": done, "of": all}, {"location": ...} and at the end {"end": ...}."""
    try:
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


def _fill(source: Staged, show: bool) -> dict[str, int]:
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    staging = sqlalchemy.create_engine(f"sqlite:///{source.path}", poolclass=NullPool)
    counts = rows.counts(staging)
    if show:
        return counts
    whole, told = sum(counts.values()), 0

    def tell(done: int) -> None:
        nonlocal told
        if done - told >= EVERY:
            told = done
            _tell(rows=done, of=whole)

    preparation.make_tables()
    target = sqlalchemy.create_engine(required(os.environ, "MLFLOW_BACKEND_STORE_URI"), poolclass=NullPool)
    source.remarks += rows.copy(staging, target, tell)
    return counts


def _tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)
