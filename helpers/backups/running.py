"""The flag of a backup that is being written: no prune deletes what such a backup may have found already there.

Several machines may use one repository, and no clock of theirs counts: what is compared are times that the store itself
gives to what is written into it.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType

from helpers.backups.storage import BlobStore, Missing, Unreadable
from helpers.errors import TrackbedError

FOLDER = "running"
REFRESH = 60.0  # seconds between two writes of a flag
STALE = 3600.0  # seconds after which a flag is that of a backup that was killed
SLACK = 60.0  # seconds by which the clocks of one store may differ
_FLAG = re.compile(r"running/[0-9a-f]{32}(?P<clock>\.clock)?")


class Expired(TrackbedError):
    """A prune may have deleted what this backup relies on."""


class Flag:
    """Up while a backup is written. ``began``: since when, by the store's clock."""

    def __init__(self, store: BlobStore) -> None:
        self._store, self._path = store, f"{FOLDER}/{secrets.token_hex(16)}"
        self.began = self._last = 0.0
        self._expired = False
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Flag:
        self.began = self._last = self._write()  # without a time: a prune that sees it now waits for it, in any case
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(TrackbedError):  # who may only add to a bucket leaves it: it gets stale
            self._store.remove(self._path)

    def _write(self) -> float:
        return _written(self._store, self._path, json.dumps({"began": self.began}).encode())

    def _keep(self) -> None:
        while not self._ended.wait(REFRESH):
            with suppress(TrackbedError):  # the next one may get through; `check` sees whether it was too late
                self._refresh()

    def _refresh(self) -> None:
        with self._writing:
            now = self._write()
            self._expired |= now - self._last > STALE
            self._last = now
            if now < self.began:  # the store's clock was set back: else what was moved since would seem to be earlier
                self.began = now
                self._write()

    def check(self) -> None:
        """Raises Expired where the flag was not seen for so long that a prune may have gone on without it."""
        self._refresh()
        if self._expired:
            raise Expired(
                f"{self._store}: this backup stood still for more than {STALE / 60:.0f} minutes, "
                "and a prune may have removed what it relies on",
                "run the same command again: it goes on with what is there",
            )


def _written(store: BlobStore, path: str, content: bytes) -> float:
    """When this was written, by the store's clock."""
    store.write(path, content)
    try:
        return store.modified(path)
    except Missing:
        raise TrackbedError(
            f"{store}/{path} was removed the moment it was written",
            "see who does that, then run the same command again",
        ) from None


def time_of(store: BlobStore) -> float:
    """What time it is, by the store's clock."""
    path = f"{FOLDER}/{secrets.token_hex(16)}.clock"
    result = _written(store, path, b"")
    store.remove(path)
    return result


def backups(store: BlobStore, now: float) -> Iterator[float]:
    """When each backup began that is being written now; 0 where it does not tell. Stale flags are taken down."""
    for path, size, modified in list(store.listed(f"{FOLDER}/")):
        match = _FLAG.fullmatch(path)
        if match and modified < now - STALE - SLACK:  # later than the backup itself thinks so
            store.remove(path)
        elif match and not match["clock"]:
            try:
                began = float(json.loads(store.read(path, size))["began"])
                yield began if 0 <= began <= now + SLACK else 0.0  # of a clock that was set back since
            except Missing:
                continue  # it has just ended
            except (Unreadable, ArithmeticError, ValueError, KeyError, TypeError, RecursionError):
                yield 0.0
