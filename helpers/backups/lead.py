"""How long the last backup of a lease may take, from the newest one and what has come since. Also in a pod."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from helpers.backups import create, repository
from helpers.backups.repository import Snapshot
from helpers.backups.storage import BlobStore
from helpers.data import artifacts, database
from helpers.errors import TrackbedError
from helpers.project.backup_runs import HOUR, LEAST, MARGIN, Good

if TYPE_CHECKING:
    from helpers.engines.base import Engine

SPEED = 10 * 2**20  # bytes a second, where no backup tells another one
READING = 20 * 2**20
DAY = 24 * HOUR
SIZES = ("new_bytes", "object_bytes", "dump_bytes", "workspace_bytes")
SPARE = 300.0  # seconds before the end that are the last backup's alone
ENDING = 60.0  # seconds for a scheduled backup that was ended to go
GOES_FIRST = "the scheduled backup is ended: the last backup of the lease goes first"
ENOUGH = 32 * 2**20  # bytes from which on a backup tells how fast it was


def newest(store: BlobStore, project: Any) -> tuple[Snapshot, dict[str, Any]] | None:
    """This project's newest backup, and its manifest; None where there is none."""
    for name in sorted(repository.names(store, project.settings.project), key=repository.stamp, reverse=True):
        snapshot = Snapshot(store, name)
        try:
            manifest = snapshot.manifest()
            if manifest.get("project_id") == create.identity(project) and _believable(manifest):
                return snapshot, manifest
        except (TrackbedError, KeyError, TypeError, ValueError, OverflowError):
            continue  # a damaged one is none
    return None


def _believable(manifest: dict[str, Any]) -> bool:
    """Whether it can be reckoned with: whoever writes to a plain place may write any number. Raises ValueError etc."""
    datetime.fromisoformat(manifest["made"]).timestamp()
    sizes = (int(manifest.get(name, 0)) for name in SIZES)
    times = (float(manifest.get("seconds", 0)), wasted(manifest))
    return all(0 <= one < 30 * DAY for one in times) and all(0 <= size < 2**60 for size in sizes)


def wasted(manifest: dict[str, Any]) -> float:
    """Seconds of a backup that the notebook took and did not give its files: the next one does not need them."""
    return float(manifest.get("workspace_seconds", 0)) if "workspace_problem" in manifest else 0.0


def good(snapshot: Snapshot, manifest: dict[str, Any]) -> tuple[float, Good]:
    """When it was begun, and it."""
    begun = datetime.fromisoformat(manifest["made"]).timestamp()
    size = int(manifest["object_bytes"]) + int(manifest["dump_bytes"])
    return begun, Good(begun + float(manifest.get("seconds", 0)), str(snapshot), size)


def size(project: Any, engine: Engine) -> int:
    """Bytes of what a backup holds now, at most: the database as it is on the disk."""
    with database.session(engine, project.state.active["database"]) as opened:
        rows = int(opened.ask("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")[0])
    return rows + sum(size for _, size, _ in artifacts.listing(engine))


def needs(now: int, manifest: dict[str, Any] | None, reading: float = 0.0) -> float:
    """Seconds that a backup and reading it back are expected to take.

    ``now``: bytes that it will hold; ``manifest``: of the newest one; ``reading``: bytes a second, 0: nobody knows.
    """
    if manifest is None:
        return now / SPEED + reads(now, None, reading)
    seconds, new = float(manifest.get("seconds", 0)), int(manifest.get("new_bytes", 0))
    held = int(manifest["object_bytes"]) + int(manifest["dump_bytes"])
    speed = new / seconds if new >= ENOUGH and seconds > 0 else SPEED
    return max(seconds - wasted(manifest), 0.0) + max(now - held, 0) / speed + reads(now, manifest, reading)


def reads(now: int, manifest: dict[str, Any] | None, reading: float = 0.0) -> float:
    """Seconds of them in which it is read back."""
    held = int(manifest["object_bytes"]) + int(manifest["dump_bytes"]) if manifest else 0
    files = int(manifest.get("workspace_bytes", 0)) if manifest else 0
    return (max(now, held) + files) / (reading or READING)


def files_until(end: float, reads: float, now: float) -> float:
    """When a last backup gives the notebook's files up, so that it can be read back before the lease ends."""
    return end - min(max(MARGIN * reads, SPARE), (end - now) / 2)


def waits_until(end: float, needs: float) -> float:
    """When a scheduled backup that is at work is ended for the last one; until then it is waited for."""
    return end - max(MARGIN * needs, SPARE)


def lead(needs: float) -> float:
    """Seconds before the end at which it begins."""
    return max(LEAST, MARGIN * needs)
