"""Fewer round trips between MLflow's tracking store and PostgreSQL, over psycopg2."""

from __future__ import annotations

import select
import time
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.dialects.postgresql.psycopg2 import EXECUTEMANY_VALUES_PLUS_BATCH

TRUSTED_SECONDS = 1.0  # a connection used so recently, with nothing to read on it, is taken for alive


def batch_updates(engine: Any) -> None:
    """Many UPDATEs of one request in one message; psycopg2 sends each alone otherwise."""
    engine.dialect.executemany_mode = EXECUTEMANY_VALUES_PLUS_BATCH
    engine.dialect.supports_sane_multi_rowcount = False  # as its constructor does for this mode


def trust_recent(engine: Any) -> None:
    """No `SELECT 1` before each use of a connection that was used a moment ago and that the server has not ended.

    A server that goes away, tidily or not, closes its sockets, and a closed one has something to read: its end.
    """
    own = engine.dialect.do_ping
    used: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def ping(connection: Any) -> bool:
        now = time.monotonic()
        recent = now - used.get(connection, 0) < TRUSTED_SECONDS
        used[connection] = now
        if recent:
            socket = select.poll()
            socket.register(connection.fileno(), select.POLLIN)
            if not socket.poll(0):
                return True
        return bool(own(connection))

    engine.dialect.do_ping = ping
