"""The body of one request that one thread reads from somewhere while another one sends it."""

from __future__ import annotations

import hashlib
import queue
import threading
from types import TracebackType

AHEAD = 16  # blocks in memory
LOOK = 1.0  # seconds between two looks whether the other side has ended


class PassingBody:
    """``size`` bytes: what `feed` takes is given by `read`, once and in order; ``sha256`` and ``md5`` are of them.

    As a context: of the side that feeds. Left by an error, `read` raises OSError, so that no request looks whole.
    """

    def __init__(self, size: int) -> None:
        self._unfed = self._left = size  # bytes to come, and bytes that nobody has read yet
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        self._blocks: queue.Queue[bytes] = queue.Queue(AHEAD)
        self._rest = memoryview(b"")
        self._broken, self._abandoned = threading.Event(), threading.Event()

    def __enter__(self) -> PassingBody:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._broken.set()

    def feed(self, block: bytes) -> bool:
        """Pass a block on, once there is room; False where nobody reads any more."""
        self.sha256.update(block)
        self._unfed -= len(block)
        while not self._abandoned.is_set():
            try:
                self._blocks.put(block, timeout=LOOK)
                return True
            except queue.Full:
                continue
        return False

    def end(self, name: str) -> None:
        """Nothing more of ``name`` comes. Raises OSError where that is too early: nobody may wait for the rest."""
        if self._unfed:
            raise OSError(f"{name} ended {self._unfed} bytes early")

    @property
    def is_read(self) -> bool:
        return not self._left and not self._rest

    def read(self, count: int = -1) -> memoryview:
        """The next bytes, up to ``count``; none behind the last one."""
        while self._left and not self._rest:
            try:
                block = self._blocks.get(timeout=LOOK)
            except queue.Empty:
                if self._broken.is_set():
                    raise OSError("what was to be sent ended early") from None
                continue
            self.md5.update(block)
            self._left -= len(block)
            self._rest = memoryview(block)
        result = self._rest if count < 0 else self._rest[:count]
        self._rest = self._rest[len(result) :]
        return result

    def abandon(self) -> None:
        """Nobody reads any more."""
        self._abandoned.set()
