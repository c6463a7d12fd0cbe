"""A place in an S3 bucket as a folder of artifacts: listed once, read in parts, never written to."""

from __future__ import annotations

import errno
import io
import sqlite3
from collections.abc import Callable, Iterator
from typing import cast

from helpers.backups import locations
from helpers.backups.bucket import Bucket, Changed, NoBucket
from helpers.backups.storage import Missing, Unreadable, scratch
from helpers.errors import TrackbedError
from helpers.imports.sources import File
from helpers.settings import Settings

NAMES = "IMPORT_S3"  # what the settings begin with
PART = 8 * 2**20  # bytes of a request
ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")  # not to be read before somebody restores them
GetBucket = Callable[[str], Bucket]


def of(settings: Settings) -> GetBucket:
    """Gives the place that an address names, with the keys of the settings. Raises SettingError, TrackbedError."""
    return lambda url: locations.bucket(settings, url, NAMES)


class Store:
    """The objects below an address. All are listed when the first is asked for: a request for each 1000, not a run."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._listed: sqlite3.Connection | None = None
        self._refused: TrackbedError | None = None

    def __str__(self) -> str:
        return str(self._bucket)

    def is_dir(self) -> bool:
        """What is not below it is missing there, where it is listed at all."""
        return self._refused is None

    def files(self, path: str, left: list[str] | None = None) -> Iterator[File]:
        """Every object below a path as a file. Raises OSError where there is none, or the store shows none."""
        below = f"{path}/" if path else ""
        rows = self._index().execute(
            "SELECT key, size, class FROM object WHERE key >= ? AND key < ? ORDER BY key",
            (below, f"{path}0" if path else "\U0010ffff"),  # "0" comes behind "/"
        )
        empty = True
        for key, size, kept in rows:
            empty, inner = False, key.removeprefix(below)
            if key.endswith("/") and not size:
                continue  # what some programs make for a folder
            words = inner.split("/")
            if not {"", ".", ".."}.isdisjoint(words) or "\0" in inner:
                (left if left is not None else []).append(inner)
            elif kept in ARCHIVED:
                (left if left is not None else []).append(f"{inner} ({kept})")
            else:
                stream = cast("io.BufferedReader", Object(self._bucket, key, size))
                yield File(inner, size, stream)
        if empty:
            raise FileNotFoundError(errno.ENOENT, "there is no object", f"{self}/{path}")

    def _index(self) -> sqlite3.Connection:
        if self._listed is None and self._refused is None:
            listed = scratch()
            listed.execute("CREATE TABLE object (key TEXT PRIMARY KEY, size INTEGER, class TEXT) WITHOUT ROWID")
            root = self._bucket.root
            items = self._bucket.items("", {})
            rows = ((item["Key"].removeprefix(root), item["Size"], item.get("StorageClass", "")) for item in items)
            try:
                listed.executemany("INSERT OR REPLACE INTO object VALUES (?, ?, ?)", rows)
                self._listed = listed
            except (NoBucket, Unreadable) as error:
                self._refused = error
        if self._listed is None:
            assert self._refused is not None
            raise PermissionError(errno.EACCES, self._refused.message)
        return self._listed


class Object(io.BufferedIOBase):
    """An object's content as a stream; nothing is asked for before it is read."""

    def __init__(self, bucket: Bucket, key: str, size: int) -> None:
        self._bucket, self._key, self._size = bucket, key, size
        self._mark = ""
        self._asked, self._part = 0, io.BytesIO()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, count: int | None = -1, /) -> bytes:
        """So many bytes, or all that are left."""
        count = -1 if count is None else count
        data = self._part.read(count)
        while (count < 0 or len(data) < count) and self._asked < self._size:
            self._part = io.BytesIO(self._next())
            data += self._part.read(count - len(data) if count >= 0 else -1)
        return data

    def seek(self, place: int, whence: int = io.SEEK_SET, /) -> int:
        """To the beginning."""
        if (place, whence) != (0, io.SEEK_SET):
            raise io.UnsupportedOperation("only the beginning can be sought")
        self._asked, self._part = 0, io.BytesIO()
        return 0

    def _next(self) -> bytes:
        count = min(PART, self._size - self._asked)
        try:
            data, self._mark = self._bucket.part(self._key, self._asked, count, self._mark)
        except Missing:
            data = b""
        if len(data) != count:
            raise Changed(
                f"{self._bucket}/{self._key} was changed while it was read", "stop what writes there, then try again"
            )
        self._asked += count
        return data
