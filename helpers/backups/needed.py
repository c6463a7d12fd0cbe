"""What the backups of a repository need, in a file of this process's own: there may be millions of pieces."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from helpers.backups.repository import Snapshot, copy, lengths, piece
from helpers.backups.storage import BlobStore, Missing, scratch
from helpers.errors import TrackbedError

TRASH = "trash/"


class Needed:
    """The blobs that backups need, with their sizes in bytes; of the manifests themselves only the names."""

    def __init__(self) -> None:
        self._base = scratch()
        self._base.execute("CREATE TABLE blob (path TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID")
        self._base.execute("CREATE TABLE line (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._manifests = set[str]()

    def __enter__(self) -> Needed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()
        if isinstance(error, sqlite3.Error):
            raise TrackbedError(
                f"{tempfile.gettempdir()}: the list of what the backups need cannot be stored there: {error}",
                "free some disk there, or name another folder with TMPDIR",
            ) from None

    def add(self, snapshot: Snapshot) -> dict[str, Any]:
        """Add what a backup needs; gives its manifest. Raises TrackbedError for one that cannot be read."""
        manifest = snapshot.manifest()
        self._manifests.add(snapshot.name)
        for digest, size in zip(manifest["list"], lengths(manifest["list_bytes"]), strict=True):
            self._add([(piece(digest), size), *([(copy(digest), size)] if manifest.get("copies") else [])])
        for line in snapshot.lines(manifest):
            # what did not change has the same line in every backup
            digest = hashlib.blake2b(line, digest_size=16).digest()
            if self._base.execute("SELECT 1 FROM line WHERE digest = ?", (digest,)).fetchone():
                continue
            entry = snapshot.entry(line)
            self._base.execute("INSERT INTO line VALUES (?)", (digest,))
            self._add([(piece(part), n) for part, n in zip(entry.pieces, lengths(entry.size), strict=True)])
        return manifest

    def _add(self, blobs: list[tuple[str, int]]) -> None:
        self._base.executemany("INSERT OR IGNORE INTO blob VALUES (?, ?)", blobs)

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str):
            return False
        if path.endswith(".json"):
            return path.rpartition("/")[2].removesuffix(".json") in self._manifests
        return self._base.execute("SELECT 1 FROM blob WHERE path = ?", (path,)).fetchone() is not None

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Path and size of each, in the order of the paths; the manifests are not among them."""
        yield from self._base.execute("SELECT path, size FROM blob ORDER BY path")

    def lacking(self, present: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """The pieces, with their sizes, that are not among these."""
        self._base.execute("CREATE TABLE present (path TEXT, size INTEGER, PRIMARY KEY (path, size)) WITHOUT ROWID")
        self._base.executemany("INSERT OR IGNORE INTO present VALUES (?, ?)", present)
        found = "SELECT path, size FROM blob WHERE path LIKE 'pieces/%' EXCEPT SELECT path, size FROM present"
        result = self._base.execute(found).fetchall()
        self._base.execute("DROP TABLE present")
        return result

    @property
    def size(self) -> int:
        return int(self._base.execute("SELECT coalesce(sum(size), 0) FROM blob").fetchone()[0])


def original(path: str) -> str:
    """Where a blob of the trash was before."""
    return path.removeprefix(TRASH).rpartition(".")[0]


def put_back(store: BlobStore, path: str) -> bool:
    """Put a blob of the trash back where it was, unless there is one; whether there was none."""
    try:
        store.modified(original(path))
        return False
    except Missing:
        pass
    try:
        store.move(path, original(path))
    except Missing:
        return False  # another prune, or another backup, was faster
    return True


def recover(store: BlobStore, snapshot: Snapshot) -> None:
    """Put back what a backup that has just been written needs and a prune put into the trash meanwhile."""
    trash = [blob.path for blob in store.listed(TRASH)]
    if not trash:
        return
    with Needed() as needed:
        needed.add(snapshot)
        for path in trash:
            if original(path) in needed:
                put_back(store, path)
