"""A share of a repository's pieces is read again at each backup into it, those first that were read longest ago.

Pieces are named by their checksum, so the order of their names is none of time: a round through all of them, a part of
it at each backup, reads each piece as often as any other. Where the round is stands in `checked.json`, with the pieces
whose content is known to be wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

from helpers.backups.damage import read_back, restore_from_copy
from helpers.backups.repository import _SHA, piece
from helpers.backups.storage import BlobStore, Missing, Unreadable
from helpers.errors import TrackbedError

FILE = "checked.json"
LEAST = 512 * 2**20  # bytes at each backup, and at least this share of all pieces; but no more seconds than these
SHARE = 1 / 30
SECONDS = 15.0
REMEMBERED = 10_000  # damaged pieces


@dataclass
class ScrubResult:
    """What was read again: pieces, their bytes, and of each that is wrong what it is."""

    count: int = 0
    size: int = 0
    wrong: dict[str, str] = field(default_factory=dict)
    position: str = ""


def _state(store: BlobStore) -> tuple[str, list[str]]:
    try:
        data = json.loads(store.read(FILE, 2**20))
        after, wrong = data["after"], data["wrong"]
        if isinstance(after, str) and isinstance(wrong, list) and all(_SHA.fullmatch(digest) for digest in wrong):
            return after, wrong
    except (Missing, Unreadable, ValueError, KeyError, TypeError, RecursionError):
        pass  # a round starts over
    return "", []


def _round(store: BlobStore, after: str) -> Iterator[tuple[str, int]]:
    """Every piece once, beginning behind ``after``."""
    begin = piece(after) if _SHA.fullmatch(after) else ""
    for path, size, _ in store.listed("pieces", begin):
        if _SHA.fullmatch(path.rpartition("/")[2]):
            yield path, size
    if begin:
        for path, size, _ in store.listed("pieces"):
            if path > begin:
                return
            if _SHA.fullmatch(path.rpartition("/")[2]):
                yield path, size


def _share(after: str, digest: str) -> float:
    """How much of all pieces lies between the two."""
    return ((int(digest[:8], 16) - int(after[:8] or "0", 16)) % 2**32) / 2**32


def read_share(store: BlobStore, stopped: Callable[[], bool] = lambda: False) -> ScrubResult:
    """Read the next share, and what was wrong the last time; no more of it once ``stopped`` says so."""
    after, remembered = _state(store)
    result, begun = ScrubResult(position=after), time.monotonic()

    def known() -> Iterator[tuple[str, int]]:
        for digest in remembered:
            if stopped():
                return
            yield piece(digest), next((size for _, size in _sized(store, digest)), 0)

    def chosen() -> Iterator[tuple[str, int]]:
        read = 0
        for path, size in _round(store, after):
            if stopped():
                return
            if (read >= LEAST and _share(after, path.rpartition("/")[2]) >= SHARE) or (
                read and time.monotonic() > begun + SECONDS
            ):
                return
            read += size
            yield path, size

    for path, _, wrong in read_back(store, known()):
        if wrong:
            result.wrong[path.rpartition("/")[2]] = wrong
    for path, size, wrong in read_back(store, chosen()):
        result.count, result.size, result.position = result.count + 1, result.size + size, path.rpartition("/")[2]
        if wrong:
            result.wrong[result.position] = wrong
    return result


@dataclass(frozen=True)
class Share:
    """A share that is read beside what else a backup does. ``lost``: once it has been read, the pieces that are wrong
    and have no copy; ``result`` and ``copied``, how many got theirs from it, from then on."""

    _read: Future[tuple[ScrubResult, set[str]]]
    lost: Future[set[str]]

    @property
    def result(self) -> ScrubResult:
        return self._read.result()[0]

    @property
    def copied(self) -> int:
        return len(self._read.result()[1])


@contextmanager
def share_beside(store: BlobStore) -> Iterator[Share]:
    """Begin to read the next share; leaving the context early gives it up."""
    left = Event()
    thread = ThreadPoolExecutor(1)

    def read() -> tuple[ScrubResult, set[str]]:
        result = read_share(store, left.is_set)
        return result, {digest for digest in result.wrong if not left.is_set() and restore_from_copy(store, digest)}

    def lost() -> set[str]:
        result, copied = reading.result()
        return {*result.wrong} - copied

    try:
        reading = thread.submit(read)
        yield Share(reading, thread.submit(lost))
    finally:
        left.set()
        thread.shutdown(wait=True, cancel_futures=True)


def _sized(store: BlobStore, digest: str) -> Iterator[tuple[str, int]]:
    """The piece with its size, where it is there."""
    for path, size, _ in store.listed(f"pieces/{digest[:2]}"):
        if path == piece(digest):
            yield path, size


def damaged(store: BlobStore) -> list[str]:
    """The pieces whose content was wrong the last time."""
    return _state(store)[1]


def forget(store: BlobStore, needed: Container[str]) -> None:
    """Forget the damage of pieces that no backup needs any more."""
    after, wrong = _state(store)
    if left := [digest for digest in wrong if piece(digest) not in needed]:
        save_position(store, ScrubResult(position=after), {*wrong} - {*left})


def save_position(store: BlobStore, result: ScrubResult, wrong: set[str]) -> None:
    """Where the round goes on, and what is still wrong. Without it the next backup reads the same again."""
    try:
        text = json.dumps({"after": result.position, "wrong": sorted(wrong)[:REMEMBERED]}).encode()
        store.write(FILE, text)
        store.sync()
    except TrackbedError:
        pass
