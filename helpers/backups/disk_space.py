"""Room on the disk for a restore: asked before anything is read, and again while it is unpacked.

A small backup may unpack into a large one: a repository may name one piece many times, and a dump is compressed. A full
disk would stop the database and the store of what runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.backups.archive import FREE as FREE
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.machine import free_space

ONE_REQUEST = 5 * 2**30  # bytes that S3 takes in one request, as the server's s3_objects.py knows
OBJECT = 4096  # bytes of a disk that the smallest object takes
# bytes unpacked, and seconds without any, after which the disk is asked again: this machine's, and another one's
EVERY, EVERY_REMOTE = 8 * 2**20, 64 * 2**20
SECONDS, SECONDS_REMOTE = 0.2, 2.0


class Full(TrackbedError):
    """Something does not fit on the disk."""


def _free(engine: Engine) -> tuple[int | None, str]:
    """Bytes free where the engine keeps its data, None where nobody can tell; and where that is."""
    facts = engine.host_facts()
    return (facts.disk_free if facts.knows_disk else None), facts.disk_path


def _full(text: str, where: str) -> Full:
    return Full(
        f"{text} at {where}, of which {FREE / 2**30:.1f} GiB have to stay free; nothing was restored",
        "free some disk (`invoke usage`, `invoke gc`), or restore on a machine with a larger disk",
    )


def dump_bytes(manifest: dict[str, Any]) -> int:
    """Of the dump as it is compressed; 0 where the manifest does not tell."""
    result = manifest.get("dump_bytes")
    return result if isinstance(result, int) and result > 0 else 0


def largest(manifest: dict[str, Any]) -> int:
    """Bytes of the largest object; 0 where the manifest does not tell."""
    result = manifest.get("largest_object")
    return min(result, manifest["object_bytes"]) if isinstance(result, int) and result > 0 else 0


def _while_stored(engine: Engine, size: int) -> int:
    """Bytes on the engine's disk while an object is stored there: VersityGW copies parts into one file."""
    copied = size if size > ONE_REQUEST else 0
    return {"external": 0, "versitygw": size + copied}.get(engine.object_store, size)


def check(engine: Engine, objects: int, object_bytes: int, dump_bytes: int, largest: int = 0) -> None:
    """Raises TrackbedError where a backup of that many objects and bytes does not fit on the engine's disk.

    ``largest``: bytes of the largest object, which may take more room until it is stored.
    """
    stored = 0 if engine.object_store == "external" else object_bytes + objects * OBJECT
    stored += max(0, _while_stored(engine, largest) - largest)
    free, where = _free(engine)
    if free is not None and stored + dump_bytes > free - FREE:
        raise _full(f"the backup needs {(stored + dump_bytes) / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free", where)


def check_manifest(engine: Engine, manifest: dict[str, Any]) -> None:
    """The same of what a backup says about itself."""
    check(engine, manifest["objects"], manifest["object_bytes"], dump_bytes(manifest), largest(manifest))


class Watch:
    """Looks at the engine's disk again and again while a backup is unpacked. Each look may raise TrackbedError."""

    def __init__(self, engine: Engine) -> None:
        facts = engine.host_facts()
        self._engine, self._since = engine, 0
        self._local = None if facts.remote else Path(facts.disk_path)  # asked directly that costs microseconds
        self._every = EVERY_REMOTE if facts.remote else EVERY
        self.seconds = SECONDS_REMOTE if facts.remote else SECONDS  # between looks while nothing is told
        self._begun = self._free()[0]

    def _free(self) -> tuple[int | None, str]:
        return _free(self._engine) if self._local is None else (free_space(self._local), str(self._local))

    def took(self, size: int) -> None:
        """So many bytes more."""
        self._since += size
        if self._since >= self._every:
            self.look()

    def look(self, needed: int = 0, what: str = "the backup") -> None:
        """Raises TrackbedError before the disk is full, and where ``needed`` bytes more would fill it."""
        self._since = 0
        free, where = self._free()
        if free is not None and free < FREE + needed:
            more = f"{what} may need {needed / 2**30:.1f} GiB more, " if needed else ""
            raise _full(f"the backup does not fit: {more}{free / 2**30:.1f} GiB are left", where)

    def object(self, size: int) -> None:
        """An object of so many bytes is stored next."""
        if size >= self._every:
            self.look(_while_stored(self._engine, size), "the next artifact")

    def look_twice(self, what: str) -> None:
        """The same, for what may need as much again as was used since the beginning."""
        free, _ = self._free()
        self.look(max(0, (self._begun or 0) - (free or 0)), what)
