"""How far a backup or a restore is: bytes and objects that have passed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import IO

from helpers.plurals import counted
from helpers.services import ProgressReporter
from helpers.sizes import mib


class Meter:
    """Tells how far it is."""

    def __init__(self, progress: ProgressReporter, what: str) -> None:
        self._progress, self._what, self._begun = progress, what, time.monotonic()

    def report(self, size: int, count: int, whole: int = 0) -> None:
        """``size`` bytes and ``count`` objects are done, of ``whole`` bytes (0: nobody knows)."""
        speed = size / 2**20 / max(time.monotonic() - self._begun, 0.001)
        self._progress.amount(self._what, size, whole, f"{counted(count, 'object')}, {mib(size, 0)}, {speed:.0f} MiB/s")


class Counted:
    """What is read of a stream is told to ``took``, which may raise."""

    def __init__(self, stream: IO[bytes], took: Callable[[int], None]) -> None:
        self._stream, self._took = stream, took

    def read(self, count: int = -1) -> bytes:
        content = self._stream.read(count)
        self._took(len(content))
        return content


def rows_taken(progress: ProgressReporter, whole: int = 0) -> Callable[[int], None]:
    """For `Counted`: tells how much of a database's dump has passed, of ``whole`` bytes (0: nobody knows)."""
    done = 0

    def took(count: int) -> None:
        nonlocal done
        done += count
        progress.amount("database", done, whole, f"{mib(done, 0)} of the dump")

    return took
