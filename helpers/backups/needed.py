"""What the backups of a repository need, in a file of this process's own: there may be millions of pieces."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from helpers.backups.repository import Snapshot, copy, lengths, piece
from helpers.backups.storage import BlobStore, Missing, scratch

TRASH = "trash/"


class Needed:
    """The blobs that backups need, with their sizes in bytes; of the manifests themselves only the names."""

    def __init__(self) -> None:
        self._base = scratch()
        self._base.execute("CREATE TABLE blob (path TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID")
        self._manifests = set[str]()

    def __enter__(self) -> Needed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._base.close()

    def add(self, snapshot: Snapshot) -> dict[str, Any]:
        """Add what a backup needs; gives its manifest. Raises TrackbedError for one that cannot be read."""
        manifest = snapshot.manifest()
        self._manifests.add(snapshot.name)
        for digest, size in zip(manifest["list"], lengths(manifest["list_bytes"]), strict=True):
            self._add([(piece(digest), size), *([(copy(digest), size)] if manifest.get("copies") else [])])
        for entry in snapshot.entries(manifest):
            self._add([(piece(digest), n) for digest, n in zip(entry.pieces, lengths(entry.size), strict=True)])
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
