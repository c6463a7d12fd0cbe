"""Writing one backup into a repository: only what the repository does not hold already."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any

from helpers import waiting
from helpers.backups import needed, repository, running
from helpers.backups.archive import read_full
from helpers.backups.formats import PLAIN, Newer
from helpers.backups.repository import (
    DATABASE,
    KIND,
    WORKERS,
    Entry,
    Snapshot,
    copy,
    lengths,
    names,
    piece,
    rendered,
    stamp,
)
from helpers.backups.storage import BlobStore, Missing, Unreadable, scratch
from helpers.backups.workspace_entries import FILES, FILES_LIST, workspace_facts
from helpers.data.checksum import SetSum
from helpers.errors import TrackbedError

NAME_SECONDS = 10.0  # for a name that no other copy has
AHEAD = 4 * repository.PIECE  # bytes of them
OBJECTS = "objects/"


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
            "INSERT OR REPLACE INTO old VALUES (?, ?)",
            ((json.dumps(e.name), e.line) for e in entries if e.name.startswith((OBJECTS, FILES))),
        )

    def forget(self) -> None:
        self._base.execute("DELETE FROM old")

    def old(self, name: str) -> Entry | None:
        row = self._base.execute("SELECT line FROM old WHERE name = ?", (json.dumps(name),)).fetchone()
        return Entry(*json.loads(row[0])) if row else None

    def add_pending(self, name: str, mark: str) -> None:
        self._base.execute("INSERT OR REPLACE INTO wanted VALUES (?, ?)", (json.dumps(name), mark))

    def pending(self) -> Iterator[str]:
        for (name,) in self._base.execute("SELECT name FROM wanted"):
            yield json.loads(name)

    def mark(self, name: str) -> str:
        row = self._base.execute("SELECT mark FROM wanted WHERE name = ?", (json.dumps(name),)).fetchone()
        return str(row[0]) if row else ""

    def is_fresh(self, piece: str) -> bool:
        """Whether nobody has asked for this piece yet."""
        return self._base.execute("INSERT OR IGNORE INTO fresh VALUES (?)", (piece,)).rowcount == 1

    def close(self) -> None:
        self._base.close()


class Writer:
    """Writes one backup into ``store``; ``finish`` makes it one. What is there already is not written again.

    ``origin`` names the store that the objects are in: marks mean something only within one. ``lost``: pieces whose
    content is known to be wrong; they are written again where the content is read, and are in ``rewritten`` then.
    ``later``: more of them, which somebody is still looking for. Until they are known, a piece counts as there only
    where its content was compared.
    """

    def __init__(
        self,
        store: BlobStore,
        project: str,
        about: dict[str, Any],
        origin: str,
        lost: Iterable[str] = (),
        later: Future[set[str]] | None = None,
    ) -> None:
        self.lost, self.rewritten = set(lost), set[str]()
        self._later, self._early = later, set[str]()
        self.remarks: list[str] = []
        self._blobs, self._project, self._origin = store, project, origin
        self.about = {"format": PLAIN, **about}
        self._objects, self._files = SetSum(), SetSum()
        self.object_bytes = self.largest = self.chunks = self.file_bytes = 0
        self.unchanged = self.pending = self.pending_bytes = self.read_bytes = 0
        self._stored = self._stored_bytes = 0
        self._under_way: deque[tuple[int, Future[None]]] = deque()

    def __enter__(self) -> Writer:
        with ExitStack() as stack:
            self._flag = stack.enter_context(running.Flag(self._blobs))  # before anything is looked for
            self._list = stack.enter_context(tempfile.TemporaryFile())  # lines only
            self._index = _Index()
            stack.callback(self._index.close)
            self._workers = ThreadPoolExecutor(WORKERS)
            stack.callback(self._workers.shutdown, wait=True, cancel_futures=True)
            self._blobs.begin()
            self._remember()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _remember(self) -> None:
        """Learn the newest backup of the same store; one that is damaged is none."""
        for name in sorted(names(self._blobs, self._project), key=stamp, reverse=True):
            snapshot = Snapshot(self._blobs, name)
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

    def listed(self, objects: Iterable[tuple[str, int, str]]) -> Iterator[str]:
        """Of what the store lists (name, size, mark), the names that have to be read; the rest is taken over."""
        for name, size, mark in objects:
            if old := self._unchanged(OBJECTS + name, size, mark):
                self._add(old)
                self.unchanged += 1
            else:
                self._index.add_pending(name, mark)
                self.pending, self.pending_bytes = self.pending + 1, self.pending_bytes + size
        return self._index.pending()

    def _unchanged(self, name: str, size: int, mark: str) -> Entry | None:
        """The last backup's entry, where it has the same mark and all its pieces are there."""
        old = self._index.old(name) if mark else None
        if old is None or (old.mark, old.size) != (mark, size):
            return None
        gone = {p for p, n in zip(old.pieces, lengths(size), strict=True) if not self._holds(p, n)}
        self.lost |= gone
        return None if gone else old

    def holds_file(self, name: str, size: int, mark: str) -> bool:
        """Whether a file of the workspace is as in the last backup; it is taken over then."""
        if old := self._unchanged(FILES + name, size, mark):
            self._add_file(old)
        return old is not None

    def file(self, name: str, size: int, stream: IO[bytes], mark: str) -> None:
        self._add_file(self._store(FILES + name, size, stream, mark))

    def files_list(self, size: int, stream: IO[bytes]) -> None:
        self._line(self._store(FILES_LIST, size, stream))

    def _add_file(self, entry: Entry) -> None:
        self._line(entry)
        self._files.add(entry.sha256, entry.size, entry.name.removeprefix(FILES))
        self.file_bytes += entry.size

    def _learn_lost(self) -> None:
        """Wait until it is known which earlier pieces are wrong."""
        if self._later is not None:
            found, self._later = self._later.result(), None
            self.lost |= found
            self.rewritten |= found & self._early

    def _has(self, digest: str, content: bytes | bytearray) -> bool:
        """Whether the piece with this content is there."""
        if self._later is None or self._later.done() or digest in self.lost:
            return self._holds(digest, len(content))
        if not self._blobs.holds(piece(digest), len(content)):
            return False
        with suppress(Missing, Unreadable):
            if self._blobs.read(piece(digest), len(content)) == content:
                return True
        self.lost.add(digest)
        return False

    def _holds(self, digest: str, size: int) -> bool:
        self._learn_lost()
        return (digest not in self.lost or digest in self.rewritten) and self._blobs.holds(piece(digest), size)

    def object(self, name: str, size: int, stream: IO[bytes]) -> None:
        self._add(self._store(f"{OBJECTS}{name}", size, stream, self._index.mark(name)))
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
            content = read_full(stream, repository.PIECE if size is None else min(repository.PIECE, size - total))
            if not content:
                if size is None:
                    break
                raise TrackbedError(f"{name} ended {size - total} bytes early", "run the same command again")
            digest = self._blobs.digest(content)
            whole.update(content)
            total += len(content)
            pieces.append(digest)
            if self._index.is_fresh(digest) and not self._has(digest, content):
                self._send(piece(digest), content)
                if self._later is not None:
                    self._early.add(digest)
                self._stored, self._stored_bytes = self._stored + 1, self._stored_bytes + len(content)
                self.rewritten |= {digest} & self.lost
        return Entry(name, total, whole.hexdigest(), mark, pieces)

    def _send(self, path: str, content: bytes) -> None:
        while len(self._under_way) >= WORKERS or sum(n for n, _ in self._under_way) + len(content) > AHEAD:
            self._under_way.popleft()[1].result()
        self._under_way.append((len(content), self._workers.submit(self._blobs.write, path, content)))

    def _arrived(self) -> None:
        while self._under_way:
            self._under_way.popleft()[1].result()
        self._blobs.sync()

    def finish(self, facts: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name the backup, now that all it needs lasts; gives its name and manifest."""
        self._learn_lost()
        size = self._list.tell()
        self._list.seek(0)
        listed = self._store("list", size, self._list)
        self._list.seek(0)
        for digest in listed.pieces:
            self._send(copy(digest), self._list.read(repository.PIECE))
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
            **workspace_facts(self.about, self._files, self.file_bytes),
            "list": listed.pieces,
            "list_bytes": size,
            "copies": 1,
            "unchanged_objects": self.unchanged,
            "new_pieces": self._stored,
            "new_bytes": self._stored_bytes,
        }
        self._flag.check()
        name = self._free_name()
        for path in (f"copies/{name}.json", f"backups/{name}.json"):
            self._blobs.write(path, rendered(manifest))
        self._blobs.sync()
        try:
            self._flag.check()
        except running.Expired:
            self._blobs.remove(f"backups/{name}.json")
            raise
        # a prune that did not see this name knows it from now on
        needed.recover(self._blobs, Snapshot(self._blobs, name))
        return name, manifest

    def _free_name(self) -> str:
        """The copy's name, which has whole seconds: another copy may have this one. Raises TrackbedError."""

        def free() -> str:
            name = f"trackbed-{self._project}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            return "" if name in names(self._blobs) else name

        if name := waiting.until(free, NAME_SECONDS, 0.1):
            return name
        raise TrackbedError(
            "the repository has a copy for each of the last seconds: is this machine's clock right?",
            "set the clock, then run the same command again",
        )
