"""What a project acknowledged after the moment of a backup: rows by the transactions that wrote them, objects by what
the backup lists. MLflow uses no savepoints, whose transactions a snapshot does not know."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from helpers.backups.repository import Snapshot
from helpers.backups.storage import scratch
from helpers.data import artifacts, database
from helpers.plurals import counted

if TYPE_CHECKING:
    from helpers.engines.base import Engine
    from helpers.services import ProgressReporter

NAMED = 5  # of each kind
SNAPSHOT = re.compile(r"\d+:\d+:[\d,]*")
_KINDS = {
    "experiments": "experiment",
    "metrics": "metric",
    "params": "parameter",
    "tags": "tag",
    "logged_models": "logged model",
    "registered_models": "registered model",
    "model_versions": "model version",
    "trace_info": "trace",
    "assessments": "assessment",
    "datasets": "dataset",
}
_OF_RUNS = ("runs", "metrics", "params", "tags")
_NO_DATA = {"alembic_version", "latest_metrics", "job_locks", "jobs", "scheduler_leases", "runs"}
_ROUND = 1 << 32  # a row has the lower half of its transaction's number


def written(engine: Engine, base: str, snapshot: str, backup: Snapshot, progress: ProgressReporter) -> tuple[str, ...]:
    """In lines, what is in the database ``base`` and among the objects and not in ``backup``, which was made of that
    ``snapshot``; () where that is nothing."""
    words = [*_rows(engine, base, snapshot), *_objects(engine, backup, progress)]
    return (f"written after it: {', '.join(words)}",) if words else ()


def _rows(engine: Engine, base: str, snapshot: str) -> list[str]:
    if not SNAPSHOT.fullmatch(snapshot):
        return ["nobody can tell which rows"]
    with database.session(engine, base) as opened:
        next_one = int(opened.ask("SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())")[0])
        after = _after(snapshot, next_one)
        tables = [name for name in opened.ask(database.TABLES) if re.fullmatch(r"\w+", name)]
        counts = " UNION ALL ".join(
            f"SELECT '{name}', pg_catalog.count(*) FROM public.\"{name}\" t WHERE {after}"  # noqa: S608
            for name in tables
            if name not in _NO_DATA
        )
        found = {name: int(count) for name, count in map(str.split, opened.ask(counts) if counts else [])}
        runs = _runs(opened, after) if set(_OF_RUNS) <= set(tables) else []
    words = [counted(found[name], kind) for name, kind in _KINDS.items() if found.get(name)]
    if rest := sum(count for name, count in found.items() if name not in _KINDS):
        words.append(counted(rest, "other row"))
    return [*runs, *words]


def _after(snapshot: str, next_one: int) -> str:
    """Whether a row `t` is of a transaction that the snapshot does not see."""
    whole = f"({next_one - next_one % _ROUND} + t.xmin::pg_catalog.text::pg_catalog.int8)"
    own = f"CASE WHEN {whole} >= {max(next_one, 3)} AND {whole} >= {_ROUND} THEN {whole} - {_ROUND} ELSE {whole} END"
    return f"NOT pg_catalog.pg_visible_in_snapshot(({own})::pg_catalog.text::pg_catalog.xid8, '{snapshot}')"


def _runs(opened: database.Session, after: str) -> list[str]:
    """The runs that are new, or to which something was written."""
    each = " UNION ".join(f"SELECT t.run_uuid FROM public.{name} t WHERE {after}" for name in _OF_RUNS)  # noqa: S608
    rows = opened.ask(
        f"WITH found AS ({each}) SELECT pg_catalog.count(*) OVER (), pg_catalog.json_build_array(r.run_uuid, "  # noqa: S608
        "pg_catalog.left(r.name, 60)) FROM public.runs r JOIN found USING (run_uuid) "
        f"ORDER BY r.start_time LIMIT {NAMED}"
    )
    if not rows:
        return []
    named = [json.loads(row.split(" ", 1)[1]) for row in rows]
    return [_named(int(rows[0].split(" ", 1)[0]), "run", [f"{name or ''} {run}".strip() for run, name in named])]


def _objects(engine: Engine, backup: Snapshot, progress: ProgressReporter) -> list[str]:
    base = scratch()
    try:
        base.execute("CREATE TABLE had (name TEXT PRIMARY KEY, size INTEGER, mark TEXT, sha TEXT) WITHOUT ROWID")
        entries = (one for one in backup.entries(backup.manifest()) if one.object)
        rows = ((json.dumps(one.object), one.size, one.mark, one.sha256) for one in entries)
        base.executemany("INSERT OR REPLACE INTO had VALUES (?, ?, ?, ?)", rows)
        new, again = [], dict[str, str]()
        for name, size, mark in artifacts.list_all(engine, progress):
            row = base.execute("SELECT size, mark, sha FROM had WHERE name = ?", (json.dumps(name),)).fetchone()
            if row is None or row[0] != size:
                new.append(name)
            elif not mark or row[1] != mark:
                again[name] = row[2]  # a mark is missing where it was written just before: its content tells
    finally:
        base.close()
    for name, found in zip(again, artifacts.digests(engine, again) if again else (), strict=True):
        if found is None or found[0] != again[name]:
            new.append(name)
    return [_named(len(new), "artifact", new)] if new else []


def _named(count: int, kind: str, names: Iterable[str]) -> str:
    shown = ["".join(c for c in name if c.isprintable()) for name in list(names)[:NAMED]]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"{counted(count, kind)} ({', '.join(shown)}{more})"


def moment(manifest: dict[str, Any]) -> tuple[float, str]:
    """When the rows of a backup were read, in seconds since the epoch, and the snapshot; 0 and "" where it is of an
    earlier version."""
    told = manifest.get("moment")
    if not isinstance(told, list) or len(told) != 2 or not SNAPSHOT.fullmatch(str(told[1])):
        return 0.0, ""
    return float(told[0]), str(told[1])
