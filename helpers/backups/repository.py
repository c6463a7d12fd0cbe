"""A backup repository: many backups in one place, which share what is equal. docs/backup.md tells its format.

    pieces/AB/ABCD...   up to PIECE bytes each, named by their SHA-256
    backups/NAME.json   one backup: what the manifest of an archive says, and the pieces of its list
    copies/             the manifests and the pieces of the lists once more: one damaged byte there would cost all of it

The list is JSON lines, [name, size, SHA-256, mark, [pieces]], of what an archive has as members; the dump is one of
them. Everything is named by its checksum from the manifest on, so that no byte is without a check.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any, cast

from helpers.backups.archive import FORMAT, SMALL, Damaged, Newer, SetSum, Told, check_facts, check_format, read_full
from helpers.backups.places import Missing, Place, Unreadable, scratch
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


class _Index:
    """What the last backup had and what is to be read, in a file of this process's own: there may be millions."""

    def __init__(self) -> None:
        self._base = scratch()
        self._base.execute("CREATE TABLE old (name TEXT PRIMARY KEY, line BLOB) WITHOUT ROWID")
        self._base.execute("CREATE TABLE wanted (name TEXT PRIMARY KEY, mark TEXT) WITHOUT ROWID")
        self._base.execute("CREATE TABLE fresh (piece TEXT PRIMARY KEY) WITHOUT ROWID")

    def learn(self, entries: Iterable[Entry]) -> None:
        # as JSON: SQLite takes no name that is not Unicode
        self._base.executemany(
            "INSERT OR REPLACE INTO old VALUES (?, ?)", ((json.dumps(e.object), e.line) for e in entries if e.object)
        )

    def forget(self) -> None:
        self._base.execute("DELETE FROM old")

    def old(self, name: str) -> Entry | None:
        found = self._base.execute("SELECT line FROM old WHERE name = ?", (json.dumps(name),)).fetchone()
        return Entry(*json.loads(found[0])) if found else None

    def want(self, name: str, mark: str) -> None:
        self._base.execute("INSERT OR REPLACE INTO wanted VALUES (?, ?)", (json.dumps(name), mark))

    def wanted(self) -> Iterator[str]:
        for (name,) in self._base.execute("SELECT name FROM wanted"):
            yield json.loads(name)

    def mark(self, name: str) -> str:
        found = self._base.execute("SELECT mark FROM wanted WHERE name = ?", (json.dumps(name),)).fetchone()
        return str(found[0]) if found else ""

    def is_fresh(self, piece: str) -> bool:
        """Whether nobody has asked for this piece yet."""
        return self._base.execute("INSERT OR IGNORE INTO fresh VALUES (?)", (piece,)).rowcount == 1

    def close(self) -> None:
        self._base.close()


class Writer:
    """Writes one backup into ``place``; ``finish`` makes it one. What is there already is not written again.

    ``origin`` names the store that the objects are in: marks mean something only within one. ``lost``: pieces whose
    content is known to be wrong; they are written again where the content is read, and are in ``rewritten`` then.
    """

    def __init__(
        self, place: Place, project: str, about: dict[str, Any], origin: str, lost: Iterable[str] = ()
    ) -> None:
        self.lost, self.rewritten = set(lost), set[str]()
        self.remarks: list[str] = []
        self._place, self._project, self._origin = place, project, origin
        self.about = {"format": FORMAT, **about}
        self._objects = SetSum()
        self.object_bytes = self.largest = self.chunks = 0
        self.unchanged = self.wanted = self.wanted_bytes = self.read_bytes = 0
        self._stored = self._stored_bytes = 0
        self._under_way: deque[tuple[int, Future[None]]] = deque()

    def __enter__(self) -> Writer:
        self._list = tempfile.TemporaryFile()  # lines only; closed in __exit__
        self._index = _Index()
        self._workers = ThreadPoolExecutor(WORKERS)
        self._place.begin()
        self._remember()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._index.close()
        self._list.close()

    def _remember(self) -> None:
        """Learn the newest backup of the same store; one that is damaged is none."""
        for name in sorted(names(self._place, self._project), key=stamp, reverse=True):
            snapshot = Snapshot(self._place, name)
            try:
                manifest = snapshot.manifest()
                if manifest["origin"] == self._origin:
                    self._index.learn(snapshot.entries(manifest))
                    return
            except TrackbedError as error:
                if not isinstance(error, Newer):
                    self.remarks.append(error.message)
                self._index.forget()

    def small(self, name: str, content: bytes) -> None:
        self._line(self._store(name, len(content), io.BytesIO(content)))

    def database(self, dump: IO[bytes]) -> int:
        entry = self._store(DATABASE, None, dump)
        self._line(entry)
        self.chunks = len(entry.pieces)
        return entry.size

    def listed(self, found: Iterable[tuple[str, int, str]]) -> Iterator[str]:
        """Of what the store lists (name, size, mark), the names that have to be read; the rest is taken over."""
        for name, size, mark in found:
            old = self._index.old(name) if mark else None
            same = old is not None and (old.mark, old.size) == (mark, size)
            gone = (
                {p for p, n in zip(old.pieces, lengths(size), strict=True) if not self._holds(p, n)}
                if old and same
                else set()
            )
            self.lost |= gone
            if old and same and not gone:
                self._add(old)
                self.unchanged += 1
            else:
                self._index.want(name, mark)
                self.wanted, self.wanted_bytes = self.wanted + 1, self.wanted_bytes + size
        return self._index.wanted()

    def _holds(self, digest: str, size: int) -> bool:
        return (digest not in self.lost or digest in self.rewritten) and self._place.holds(piece(digest), size)

    def object(self, name: str, size: int, stream: IO[bytes]) -> None:
        self._add(self._store(f"objects/{name}", size, stream, self._index.mark(name)))
        self.read_bytes += size

    @property
    def objects(self) -> int:
        return self._objects.count

    def _add(self, entry: Entry) -> None:
        self._line(entry)
        self._objects.add(entry.sha256, entry.size, entry.object)
        self.object_bytes += entry.size
        self.largest = max(self.largest, entry.size)

    def _line(self, entry: Entry) -> None:
        self._list.write(entry.line)

    def _store(self, name: str, size: int | None, stream: IO[bytes], mark: str = "") -> Entry:
        """Store a stream piece by piece; ``size`` None: to its end."""
        whole, total, pieces = hashlib.sha256(), 0, []
        while size is None or total < size:
            content = read_full(stream, PIECE if size is None else min(PIECE, size - total))
            if not content:
                if size is None:
                    break
                raise TrackbedError(f"{name} ended {size - total} bytes early", "run the same command again")
            digest = hashlib.sha256(content).hexdigest()
            whole.update(content)
            total += len(content)
            pieces.append(digest)
            if self._index.is_fresh(digest) and not self._holds(digest, len(content)):
                self._send(piece(digest), content)
                self._stored, self._stored_bytes = self._stored + 1, self._stored_bytes + len(content)
                self.rewritten |= {digest} & self.lost
        return Entry(name, total, whole.hexdigest(), mark, pieces)

    def _send(self, path: str, content: bytes) -> None:
        while len(self._under_way) >= WORKERS or sum(n for n, _ in self._under_way) + len(content) > AHEAD:
            self._under_way.popleft()[1].result()
        self._under_way.append((len(content), self._workers.submit(self._place.write, path, content)))

    def _arrived(self) -> None:
        while self._under_way:
            self._under_way.popleft()[1].result()
        self._place.settle()

    def finish(self, facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name the backup, now that all it needs lasts; gives its name and manifest."""
        size = self._list.tell()
        self._list.seek(0)
        listed = self._store("list", size, self._list)
        self._list.seek(0)
        for digest in listed.pieces:
            self._send(copy(digest), self._list.read(PIECE))
        self._arrived()
        manifest = {
            **self.about,
            **facts,
            "kind": KIND,
            "origin": self._origin,
            "chunks": self.chunks,
            "objects": self._objects.count,
            "object_bytes": self.object_bytes,
            "largest_object": self.largest,
            "objects_sum": self._objects.text,
            "list": listed.pieces,
            "list_bytes": size,
            "copies": 1,
            "unchanged_objects": self.unchanged,
            "new_pieces": self._stored,
            "new_bytes": self._stored_bytes,
        }
        while (name := f"trackbed-{self._project}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}") in names(self._place):
            time.sleep(0.1)  # names have whole seconds
        for path in (f"copies/{name}.json", f"backups/{name}.json"):
            self._place.write(path, rendered(manifest))
        self._place.settle()
        return name, manifest


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def project(name: str) -> str:
    return name.removeprefix("trackbed-").rpartition("-")[0]


def stamp(name: str) -> str:
    """The time in a backup's name, in an order that sorts."""
    return name.rpartition("-")[2]


def names(place: Place, of: str = "") -> list[str]:
    """The backups in a place, of one project or all."""
    found = [name.removesuffix(".json") for name in place.names("backups") if name.endswith(".json")]
    return [name for name in found if is_name(name) and of in ("", project(name))]


@dataclass(frozen=True)
class Snapshot:
    """One backup of a repository, to read."""

    place: Place
    name: str

    def __str__(self) -> str:
        return f"{self.place}/backups/{self.name}.json"

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
            text = self.place.read(path, MANIFEST)
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
        rest = bytearray()
        for content in self._ahead(zip(manifest["list"], lengths(manifest["list_bytes"]), strict=True), self._listed):
            rest += content
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield self._entry(bytes(line))
            if len(rest) > LINE:
                break
        if rest:
            raise Damaged(str(self), "its list is wrong: a line without an end")

    def _entry(self, line: bytes) -> Entry:
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
        words = name.split("/")
        known = name in SMALL or name == DATABASE or (words[0] == "objects" and len(words) > 1)
        if not known or not {"", ".", ".."}.isdisjoint(words) or "\0" in name:
            raise Damaged(str(self), f"its list holds {name!r}, which does not belong there")
        return Entry(name, size, digest, mark, pieces)

    def _ahead(
        self, wanted: Iterable[tuple[str, int]], fetch: Callable[[str, int], bytes] | None = None
    ) -> Iterator[bytes]:
        """The content of each piece (SHA-256, size) in order, some of them fetched before they are asked for."""
        workers, ahead = ThreadPoolExecutor(WORKERS), 0
        under_way: deque[tuple[int, Future[bytes]]] = deque()
        try:
            for digest, size in wanted:
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
            return fetch(self.place, piece(digest), digest, size)
        except Harmed as error:
            raise TrackbedError(
                f"{self}: its piece {self.place}/{piece(digest)} {error}",
                f"nothing was changed. `invoke restore {self} --skip-damaged` restores the rest; "
                f"`invoke backup.verify {self.place}` lists all damage, with --repair it stores again "
                "what the running system still has; or use another backup",
            ) from None

    def _listed(self, digest: str, size: int) -> bytes:
        """A piece of the list, or the copy of it."""
        try:
            return self._fetch(digest, size)
        except TrackbedError as error:
            try:
                return fetch(self.place, copy(digest), digest, size)
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

    def small(self, manifest: dict[str, Any], wanted: str) -> bytes:
        """The content of an entry that is no object; b"" where there is none."""
        for entry in self.entries(manifest):
            if entry.name == wanted:
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

    def verify(self, told: Told | None = None) -> dict[str, Any]:
        """Read every byte of it; gives its manifest. Raises TrackbedError when anything is not as it should be."""
        manifest = self.manifest()
        whole = manifest["object_bytes"] + manifest["dump_bytes"]
        entries, again = itertools.tee(self.entries(manifest))
        blobs = self._ahead(part for e in again for part in zip(e.pieces, lengths(e.size), strict=True))
        sums, chunks, size, passed, seen = SetSum(), 0, 0, 0, set[str]()
        for entry in entries:
            self._fits(entry, manifest, sums.count, size)
            sha = hashlib.sha256()
            for content in itertools.islice(blobs, len(entry.pieces)):
                sha.update(content)
                passed += len(content)
                if told:
                    told(passed, sums.count, whole)
            if sha.hexdigest() != entry.sha256:
                raise Damaged(str(self), f"{entry.name} differs from its list")
            if entry.object:
                sums.add(entry.sha256, entry.size, entry.object)
                size += entry.size
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
        return manifest


class Harmed(Exception):
    """The blob is not what its name says; the text continues "the piece ..."."""


def fetch(place: Place, path: str, digest: str, size: int) -> bytes:
    """A blob whose content is known. Raises Harmed; TrackbedError where the place does not answer."""
    try:
        content = place.read(path, size)
    except Missing:
        raise Harmed("is missing, or no plain file") from None
    except Unreadable as error:
        raise Harmed(f"cannot be read ({error.message})") from None
    if len(content) != size:
        raise Harmed("is damaged: its size differs")
    if hashlib.sha256(content).hexdigest() != digest:
        raise Harmed("is damaged: its content differs")
    return content


def _are_pieces(found: list[Any]) -> bool:
    return all(isinstance(piece, str) and _SHA.fullmatch(piece) for piece in found)


class _Joined:
    """So many blobs of an iterator as one stream."""

    def __init__(self, blobs: Iterator[bytes], count: int) -> None:
        self._blobs, self._left, self._rest = blobs, count, memoryview(b"")

    def read(self, count: int = -1) -> bytes:
        found = bytearray()
        while count < 0 or len(found) < count:
            if not self._rest:
                if not self._left:
                    break
                self._rest, self._left = memoryview(next(self._blobs)), self._left - 1
            part = self._rest if count < 0 else self._rest[: count - len(found)]
            self._rest = self._rest[len(part) :]
            found += part
        return bytes(found)

    def skip(self) -> None:
        while self._left:
            next(self._blobs)
            self._left -= 1
