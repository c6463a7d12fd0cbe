"""A backup repository: many backups that share what is equal. docs/backup.md tells its format.

    pieces/AB/ABCD...   up to PIECE bytes each, named by their SHA-256
    backups/NAME.json   one backup: what the manifest of an archive says, and the pieces of its list
    copies/             the manifests and the pieces of the lists once more: one damaged byte there would cost all of it
    running/            a flag of each backup that is being written (running.py)
    trash/              what no backup needed when a prune looked, each with a suffix of its own (prune.py)

The list is JSON lines, [name, size, SHA-256, mark, [pieces]], of what an archive has as members; the dump is one of
them. Everything is named by its checksum from the manifest on, so that no byte is without a check.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, cast

from helpers.backups.archive import SMALL, ProgressCallback
from helpers.backups.formats import Damaged, check_facts, check_format
from helpers.backups.storage import BlobStore, Missing, Unreadable
from helpers.backups.workspace_entries import FILES_LIST, FilesCheck, is_of_workspace
from helpers.data.checksum import SetSum
from helpers.errors import TrackbedError

PIECE = 8 * 2**20
LINE = 64 * 2**20  # longest line of a list: an object of 7 TB
MANIFEST = 64 * 2**20
WORKERS = 8  # blobs under way at a time: what one store answers slowly, several connections hide
AHEAD = 4 * PIECE  # bytes of them
DATABASE = "database"
KIND = "repository"
_NAME = re.compile(r"trackbed-[a-z0-9][a-z0-9_-]{0,39}-[0-9]{8}T[0-9]{6}Z")
_SHA = re.compile(r"[0-9a-f]{64}")


def piece(digest: str) -> str:
    return f"pieces/{digest[:2]}/{digest}"


def copy(digest: str) -> str:
    """Where a second copy of a list's piece is."""
    return f"copies/{digest}"


def trashed(path: str) -> str:
    """How the names begin under which a prune put this blob aside."""
    return f"trash/{path}."


def lengths(size: int) -> list[int]:
    """The sizes of the pieces of so many bytes."""
    return [PIECE] * (size // PIECE) + ([size % PIECE] if size % PIECE else [])


def rendered(manifest: dict[str, Any]) -> bytes:
    """The only way to write this manifest."""
    content = {key: value for key, value in manifest.items() if key != "self"}
    content["self"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Entry:
    """One line of a list. ``size`` in bytes; ``mark`` tells an unchanged object, "" never does."""

    name: str
    size: int
    sha256: str
    mark: str
    pieces: list[str]

    @property
    def line(self) -> bytes:
        return json.dumps([self.name, self.size, self.sha256, self.mark, self.pieces]).encode() + b"\n"

    @property
    def object(self) -> str:
        """The object's name; "" for what is none."""
        return self.name.removeprefix("objects/") if self.name.startswith("objects/") else ""


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def project(name: str) -> str:
    return name.removeprefix("trackbed-").rpartition("-")[0]


def stamp(name: str) -> str:
    """The time in a backup's name, in an order that sorts."""
    return name.rpartition("-")[2]


def names(store: BlobStore, of: str = "") -> list[str]:
    """The backups in a store, of one project or all."""
    result = [name.removesuffix(".json") for name in store.names("backups") if name.endswith(".json")]
    return [name for name in result if is_name(name) and of in ("", project(name))]


def has_workspace(store: BlobStore, names: Iterable[str]) -> bool:
    """Whether one of these backups holds a workspace. One that cannot be read does not count."""
    for name in names:
        with suppress(TrackbedError):
            if "workspace_files" in Snapshot(store, name).manifest():
                return True
    return False


@dataclass(frozen=True)
class Snapshot:
    """One backup of a repository, to read."""

    store: BlobStore
    name: str

    def __str__(self) -> str:
        return f"{self.store}/backups/{self.name}.json"

    def manifest(self) -> dict[str, Any]:
        """The manifest or the copy of it, checked. Raises Damaged, or TrackbedError for a newer format."""
        try:
            return self.manifest_at(f"backups/{self.name}.json")
        except (Damaged, Unreadable) as error:
            try:
                return self.manifest_at(f"copies/{self.name}.json")
            except TrackbedError:
                raise error from None

    def manifest_at(self, path: str) -> dict[str, Any]:
        """What one of its two files says."""
        try:
            text = self.store.read(path, MANIFEST)
        except Missing:
            raise TrackbedError(f"{self}: there is no such backup", "name one that exists") from None
        try:
            manifest = json.loads(text)
        except (ValueError, RecursionError):
            raise Damaged(str(self), "is not a backup of Trackbed, or was cut") from None
        if not isinstance(manifest, dict):
            raise Damaged(str(self), "is not a backup of Trackbed")
        check_format(str(self), manifest)
        if rendered(manifest) != text:
            raise Damaged(str(self), "its manifest is damaged")
        check_facts(
            str(self), manifest, {"kind": str, "origin": str, "list": list, "list_bytes": int, "dump_bytes": int}
        )
        pieces, size = manifest["list"], manifest["list_bytes"]
        # lines have different names, so no two pieces of a list are equal: one named often would have no end
        if (
            manifest["kind"] != KIND
            or len(pieces) != -(-size // PIECE)
            or not _are_pieces(pieces)
            or len(set(pieces)) != len(pieces)
        ):
            raise Damaged(str(self), "its manifest is wrong (list)")
        return manifest

    def entries(self, manifest: dict[str, Any]) -> Iterator[Entry]:
        """The list, each line checked by itself. Raises Damaged."""
        return map(self.entry, self.lines(manifest))

    def lines(self, manifest: dict[str, Any]) -> Iterator[bytes]:
        """The list as it is written; ``entry`` checks a line. Raises Damaged."""
        rest = bytearray()
        for content in self._ahead(zip(manifest["list"], lengths(manifest["list_bytes"]), strict=True), self._listed):
            rest += content
            *lines, rest = rest.split(b"\n")
            yield from map(bytes, lines)
            if len(rest) > LINE:
                break
        if rest:
            raise Damaged(str(self), "its list is wrong: a line without an end")

    def entry(self, line: bytes) -> Entry:
        """One line of the list. Raises Damaged."""
        try:
            name, size, digest, mark, pieces = json.loads(line)
            fits = (
                isinstance(name, str)
                and type(size) is int
                and size >= 0
                and isinstance(digest, str)
                and isinstance(mark, str)
                and isinstance(pieces, list)
                and _SHA.fullmatch(digest)
                and len(pieces) == -(-size // PIECE)
                and _are_pieces(pieces)
            )
        except (ValueError, TypeError, RecursionError):
            fits = False
        if not fits:
            raise Damaged(str(self), f"its list is wrong: {line[:80]!r}")
        parts = name.split("/")
        below = parts[0] in ("objects", "workspace") and len(parts) > 1
        known = name in (*SMALL, DATABASE, FILES_LIST) or below
        if not known or not {"", ".", ".."}.isdisjoint(parts) or "\0" in name:
            raise Damaged(str(self), f"its list holds {name!r}, which does not belong there")
        return Entry(name, size, digest, mark, pieces)

    def _ahead(
        self, expected: Iterable[tuple[str, int]], fetch: Callable[[str, int], bytes] | None = None
    ) -> Iterator[bytes]:
        """The content of each piece (SHA-256, size) in order, some of them fetched before they are asked for."""
        workers, ahead = ThreadPoolExecutor(WORKERS), 0
        under_way: deque[tuple[int, Future[bytes]]] = deque()
        try:
            for digest, size in expected:
                under_way.append((size, workers.submit(fetch or self._fetch, digest, size)))
                ahead += size
                while len(under_way) > WORKERS or ahead > AHEAD:
                    size, fetched = under_way.popleft()
                    ahead -= size
                    yield fetched.result()
            for _, fetched in under_way:
                yield fetched.result()
        finally:
            # never waiting: one that was left half-way is closed by the garbage collector, in whatever thread that is
            workers.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, digest: str, size: int) -> bytes:
        try:
            return fetch(self.store, piece(digest), digest, size)
        except Harmed as error:
            raise TrackbedError(
                f"{self}: its piece {self.store}/{piece(digest)} {error}",
                f"nothing was changed. `invoke restore {self} --skip-damaged` restores the rest; "
                f"`invoke backup.verify {self.store}` lists all damage, with --repair it stores again "
                "what the running project still has; or use another backup",
            ) from None

    def _listed(self, digest: str, size: int) -> bytes:
        """A piece of the list, or the copy of it."""
        try:
            return self._fetch(digest, size)
        except TrackbedError as error:
            try:
                return fetch(self.store, copy(digest), digest, size)
            except Harmed:
                raise error from None

    def members(
        self, manifest: dict[str, Any], skipped: Container[str] = frozenset()
    ) -> Iterator[tuple[str, int, IO[bytes]]]:
        """What an archive of this backup would have as members, each piece checked on the way.

        Without what needs one of the pieces in ``skipped``.
        """
        entries, again = itertools.tee(e for e in self.entries(manifest) if not any(p in skipped for p in e.pieces))
        blobs = self._ahead(part for e in again for part in zip(e.pieces, lengths(e.size), strict=True))
        for entry in entries:
            if entry.name == DATABASE:
                for number in range(len(entry.pieces)):
                    content = next(blobs)
                    yield f"{DATABASE}/{number:06d}", len(content), io.BytesIO(content)
                continue
            stream = _Joined(blobs, len(entry.pieces))
            yield entry.name, entry.size, cast("IO[bytes]", stream)
            stream.skip()

    def small(self, manifest: dict[str, Any], expected: str) -> bytes:
        """The content of an entry that is no object; b"" where there is none."""
        for entry in self.entries(manifest):
            if entry.name == expected:
                return b"".join(map(self._fetch, entry.pieces, lengths(entry.size)))
            if entry.name not in SMALL:
                break  # they come first
        return b""

    def _fits(self, entry: Entry, manifest: dict[str, Any], count: int, size: int) -> None:
        """Raises Damaged for more than the manifest says, before that is read: one piece may be named many times."""
        if entry.object:
            more = count >= manifest["objects"] or size + entry.size > manifest["object_bytes"]
        else:
            more = entry.size > (manifest["dump_bytes"] if entry.name == DATABASE else 2**30)
        if more:
            raise Damaged(str(self), f"its list has more than its manifest says, from {entry.name!r} on")

    def verify(self, on_progress: ProgressCallback | None = None) -> dict[str, Any]:
        """Read every byte of it; gives its manifest. Raises TrackbedError when anything is not as it should be."""
        manifest = self.manifest()
        whole = manifest["object_bytes"] + manifest["dump_bytes"] + manifest.get("workspace_bytes", 0)
        files = FilesCheck(str(self), manifest)
        entries, again = itertools.tee(self.entries(manifest))
        blobs = self._ahead(part for e in again for part in zip(e.pieces, lengths(e.size), strict=True))
        sums, chunks, size, passed, seen = SetSum(), 0, 0, 0, set[str]()
        for entry in entries:
            if is_of_workspace(entry.name):
                files.fits(entry.name, entry.size)
            else:
                self._fits(entry, manifest, sums.count, size)
            sha = hashlib.sha256()
            for content in itertools.islice(blobs, len(entry.pieces)):
                sha.update(content)
                passed += len(content)
                if on_progress:
                    on_progress(passed, sums.count, whole)
            if sha.hexdigest() != entry.sha256:
                raise Damaged(str(self), f"{entry.name} differs from its list")
            if entry.object:
                sums.add(entry.sha256, entry.size, entry.object)
                size += entry.size
                continue
            if is_of_workspace(entry.name):
                files.add(entry.name, entry.size, entry.sha256)
                continue
            if entry.name in seen or sums.count:
                raise Damaged(str(self), f"its list holds {entry.name!r} ({entry.size} bytes) where it does not belong")
            seen.add(entry.name)
            if entry.name == DATABASE:
                chunks = len(entry.pieces)
        if (chunks, sums.count, size, sums.text) != (
            manifest["chunks"],
            manifest["objects"],
            manifest["object_bytes"],
            manifest["objects_sum"],
        ):
            raise Damaged(str(self), "its counts differ from its manifest")
        files.end()
        return manifest


class Harmed(Exception):
    """The blob is not what its name says; the text continues "the piece ..."."""


def fetch(store: BlobStore, path: str, digest: str, size: int) -> bytes:
    """A blob whose content is known. Raises Harmed; TrackbedError where the place does not answer."""
    try:
        content = _read(store, path, size)
    except Missing:
        raise Harmed("is missing, or no plain file") from None
    except Unreadable as error:
        raise Harmed(f"cannot be read ({error.message})") from None
    if len(content) != size:
        raise Harmed("is damaged: its size differs")
    if store.digest(content) != digest:
        raise Harmed("is damaged: its content differs")
    return content


def _read(store: BlobStore, path: str, size: int) -> bytes:
    """A blob, from the trash where a prune has just taken it and was killed before it saw that it is needed."""
    try:
        return store.read(path, size)
    except Missing:
        for blob in store.listed(trashed(path).rpartition("/")[0]):
            if blob.path.startswith(trashed(path)):
                with suppress(Missing):
                    return store.read(blob.path, size)
        return store.read(path, size)  # put back meanwhile, or Missing


def _are_pieces(items: list[Any]) -> bool:
    return all(isinstance(piece, str) and _SHA.fullmatch(piece) for piece in items)


class _Joined:
    """So many blobs of an iterator as one stream."""

    def __init__(self, blobs: Iterator[bytes], count: int) -> None:
        self._blobs, self._left, self._rest = blobs, count, memoryview(b"")

    def read(self, count: int = -1) -> bytes:
        result = bytearray()
        while count < 0 or len(result) < count:
            if not self._rest:
                if not self._left:
                    break
                self._rest, self._left = memoryview(next(self._blobs)), self._left - 1
            part = self._rest if count < 0 else self._rest[: count - len(result)]
            self._rest = self._rest[len(part) :]
            result += part
        return bytes(result)

    def skip(self) -> None:
        while self._left:
            next(self._blobs)
            self._left -= 1
