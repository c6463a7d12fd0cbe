"""What is whole of a damaged backup: everything but the artifacts that are damaged or missing, which are named."""

from __future__ import annotations

import hashlib
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from helpers.backups import damage, locations
from helpers.backups.archive import LONGEST_HEADER, SMALL, ProgressCallback, plain_member, read_manifest
from helpers.backups.formats import Damaged
from helpers.backups.locations import Source
from helpers.backups.repository import DATABASE, Snapshot
from helpers.backups.storage import scratch
from helpers.backups.workspace_entries import FILES, FILES_LIST
from helpers.data.checksum import SetSum
from helpers.errors import TrackbedError

SUMS = "SHA256SUMS"
LARGEST = 2**24  # bytes of settings, or of logins
Member = tuple[str, int, IO[bytes]]


@dataclass
class Restorable:
    """What is whole of a backup: checksum (a SetSum's), count and bytes of its objects, and of the files of its
    workspace; ``left``: the names of what is not."""

    manifest: dict[str, Any]
    left: tuple[str, ...]
    objects_sum: str
    objects: int
    object_bytes: int
    files_sum: str
    files: int
    file_bytes: int

    def members(self) -> Iterator[Member]:
        """Name, size and content of each member; the content has to be read before the next is asked for."""
        raise NotImplementedError


@dataclass
class _All(Restorable):
    source: Source

    def members(self) -> Iterator[Member]:
        return locations.members(self.source, self.manifest)


def complete(source: Source, on_progress: ProgressCallback | None) -> Restorable:
    """Every byte of a backup, read and checked. Raises TrackbedError when anything is not as it should be."""
    manifest = locations.verify(source, on_progress)
    files = (manifest.get("workspace_sum", SetSum().text), manifest.get("workspace_files", 0))
    return _All(
        manifest,
        (),
        manifest["objects_sum"],
        manifest["objects"],
        manifest["object_bytes"],
        *files,
        manifest.get("workspace_bytes", 0),
        source,
    )


def undamaged(source: Source, on_progress: ProgressCallback | None) -> Restorable:
    """The same, without what is damaged. Raises TrackbedError where too much is damaged to restore the rest."""
    try:
        return complete(source, on_progress)
    except TrackbedError:
        return of_archive(source, on_progress) if isinstance(source, Path) else of_repository(source, on_progress)


def small(rest: Restorable, expected: str) -> bytes:
    """The content of a small member; b"" where there is none, or none that is whole."""
    for name, size, content in rest.members():
        if name == expected and size <= LARGEST:
            return content.read()
        if name not in SMALL:
            break  # they come first
    return b""


@dataclass
class _FromRepository(Restorable):
    snapshot: Snapshot
    wrong: set[str]

    def members(self) -> Iterator[Member]:
        return self.snapshot.members(self.manifest, self.wrong)


def of_repository(snapshot: Snapshot, on_progress: ProgressCallback | None) -> Restorable:
    """Raises TrackbedError where manifest, list or dump of the backup are damaged."""
    result = damage.examine(snapshot.store, [snapshot.name], on_progress, all_of_it=False)
    if snapshot.name in result.unrestorable:
        raise TrackbedError(
            f"{snapshot}: {result.unrestorable[snapshot.name]}",
            f"nothing was changed; `invoke backup.verify {snapshot.store}` tells which are whole",
        )
    manifest, wrong, left = snapshot.manifest(), result.pieces, list[str]()
    sums, files, size, file_size = SetSum(), SetSum(), 0, 0
    for entry in snapshot.entries(manifest):
        if not wrong.isdisjoint(entry.pieces):
            left.append(entry.name)
        elif entry.object:
            sums.add(entry.sha256, entry.size, entry.object)
            size += entry.size
        elif entry.name.startswith(FILES):
            files.add(entry.sha256, entry.size, entry.name.removeprefix(FILES))
            file_size += entry.size
    held = (sums.text, sums.count, size, files.text, files.count, file_size)
    return _FromRepository(manifest, tuple(left), *held, snapshot, wrong)


class _Lenient(tarfile.TarInfo):
    """A header that is none of ours is passed over, and the next one looked for."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        extended = self.type == tarfile.XHDTYPE
        if (extended and self.size > LONGEST_HEADER) or not (extended or self.type == tarfile.REGTYPE):
            raise tarfile.InvalidHeaderError("not ours")  # type: ignore[attr-defined]
        result: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return plain_member(result)


class _Section:
    """So many bytes of a file."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, count: int = -1) -> bytes:
        content = self._stream.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(content)
        return content


@dataclass
class _OfArchive(Restorable):
    path: Path
    base: sqlite3.Connection

    def members(self) -> Iterator[Member]:
        with self.path.open("rb") as stream:
            for name, at, size in self.base.execute("SELECT name, at, size FROM whole ORDER BY at"):
                stream.seek(at)
                yield name.decode("utf-8", "surrogateescape"), size, cast("IO[bytes]", _Section(stream, size))


def of_archive(path: Path, on_progress: ProgressCallback | None) -> Restorable:
    """Raises TrackbedError where the manifest, the list of checksums or the dump of the file are damaged."""
    manifest, base = read_manifest(path), scratch()
    base.execute("CREATE TABLE found (name BLOB, at INTEGER, size INTEGER, sha TEXT)")
    base.execute("CREATE TABLE wanted (name BLOB PRIMARY KEY, sha TEXT) WITHOUT ROWID")
    for name, at, size, sha in _find_members(path, manifest["bytes"], on_progress):
        base.execute("INSERT INTO found VALUES (?, ?, ?, ?)", (name.encode("utf-8", "surrogateescape"), at, size, sha))
    listed = base.execute("SELECT at, size FROM found WHERE name = ? ORDER BY at DESC", (SUMS.encode(),)).fetchone()
    if listed is None:
        raise Damaged(path, "its list of checksums is damaged too, so that nobody can tell what is whole")
    base.executemany("INSERT OR REPLACE INTO wanted VALUES (?, ?)", _wanted(path, *listed))
    base.execute(
        "CREATE TABLE whole AS SELECT f.name, min(f.at) AS at, f.size FROM found f JOIN wanted w "
        "ON w.name = f.name AND w.sha = f.sha GROUP BY f.name"
    )
    base.execute("CREATE INDEX by_name ON whole (name)")
    for number in range(manifest["chunks"]):
        if not base.execute("SELECT 1 FROM whole WHERE name = ?", (f"{DATABASE}/{number:06d}".encode(),)).fetchone():
            raise Damaged(path, "its database dump is damaged, without which nothing can be restored")
    left = [
        name.decode("utf-8", "surrogateescape")
        for (name,) in base.execute("SELECT name FROM wanted WHERE name NOT IN (SELECT name FROM whole) ORDER BY name")
    ]
    return _OfArchive(manifest, tuple(left), *_sum(base, "objects/"), *_sum(base, FILES), path, base)


def _sum(base: sqlite3.Connection, top: str) -> tuple[str, int, int]:
    """Checksum, count and bytes of what is whole below ``top``."""
    sums, total = SetSum(), 0
    for name, size, sha in base.execute(
        "SELECT name, size, sha FROM whole JOIN wanted USING (name) WHERE name >= ? AND name < ?",
        (top.encode(), top.rstrip("/").encode() + b"0"),  # 0 comes after /
    ):
        sums.add(sha, size, name.decode("utf-8", "surrogateescape").removeprefix(top))
        total += size
    return sums.text, sums.count, total


def _find_members(path: Path, end: int, on_progress: ProgressCallback | None) -> Iterator[tuple[str, int, int, str]]:
    """Name, offset, size and SHA-256 of everything that looks like one of our members."""
    with (
        path.open("rb") as stream,
        tarfile.open(
            path, "r:", tarinfo=_Lenient, ignore_zeros=True, encoding="utf-8", errors="surrogateescape"
        ) as tar,
    ):
        count = 0
        while tar.offset < end:
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            try:
                member = tar.next()
            except RecursionError:
                raise Damaged(path, "has too many headers of one member") from None
            except (tarfile.TarError, ValueError, OSError):
                tar.offset += 512
                continue
            if member is None:
                return
            if member.offset_data + member.size > end:
                tar.offset = member.offset_data
                continue
            parts = member.name.split("/")
            below = parts[0] in ("objects", "workspace", DATABASE) and len(parts) > 1
            known = member.name in (*SMALL, SUMS, FILES_LIST) or below
            if not known or not {"", ".", ".."}.isdisjoint(parts) or "\0" in member.name:
                continue
            stream.seek(member.offset_data)
            content, sha = _Section(stream, member.size), hashlib.sha256()
            while data := content.read(2**20):
                sha.update(data)
            count += 1
            if on_progress:
                on_progress(member.offset_data + member.size, count, end)
            yield member.name, member.offset_data, member.size, sha.hexdigest()


def _wanted(path: Path, at: int, size: int) -> Iterator[tuple[bytes, str]]:
    """The lines of SHA256SUMS, as `sha256sum` writes them."""
    with path.open("rb") as stream:
        stream.seek(at)
        left = size
        while left > 0 and (line := stream.readline(min(left, 2**16))):
            left -= len(line)
            digest, _, name = line.rstrip(b"\n").partition(b"  ")
            if digest.startswith(b"\\"):
                digest = digest[1:]
                name = name.replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\0", b"\\")
            yield name, digest.decode("latin-1")
