"""`invoke status --watch`: looks again and again, and shows how old that is which it shows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Generic, TypeVar

from helpers import console, screen, waiting
from helpers.errors import INTERRUPTED, SettingError, TrackbedError

DEFAULT_SECONDS = 5.0
TICK = 1.0  # after which the age is painted again
T = TypeVar("T")


def seconds(given: str | bool | None) -> float | None:
    """The pause between two looks; None without --watch. Raises SettingError."""
    if given is None or given is False:
        return None
    if given is True:
        return DEFAULT_SECONDS
    try:
        result = float(given)
    except ValueError:
        result = math.nan
    if not 1 <= result <= 3600:
        raise SettingError(f"--watch={given}: must be a number of seconds from 1 to 3600.")
    return result


class Watch(Generic[T]):
    """``look`` gives what ``show`` prints. A look that fails leaves the earlier figures, with its message."""

    def __init__(self, pause: float, look: Callable[[], T], show: Callable[[T], None]) -> None:
        self.pause, self._look, self._show = pause, look, show
        self._seen: T | None = None
        self._at = 0.0
        self._failure = ""

    def run(self) -> int:
        """Until Ctrl-C. Gives the exit code."""
        painted = screen.is_terminal()
        try:
            self._again()
            (self._repaint if painted else self._append)()
        except KeyboardInterrupt:
            if painted and self._seen is not None:
                self._print()  # what was seen last stays on the terminal
        return INTERRUPTED

    def _again(self) -> None:
        try:
            self._seen = self._look()
            self._at, self._failure = time.time(), ""
        except TrackbedError as problem:
            if self._seen is None:
                raise
            self._failure = problem.message

    def _print(self, note: str = "") -> None:
        age = max(0, round(time.time() - self._at))
        old = f", {age} s old" if age else ""
        console.value(f"as of {datetime.fromtimestamp(self._at):%H:%M:%S}{old}{note}")
        if self._failure:
            console.value(f"the last look failed: {self._failure}")
        console.value("")
        if self._seen is not None:
            self._show(self._seen)

    def _append(self) -> None:
        while True:
            self._print()
            time.sleep(self.pause)  # nothing to wait for but the time
            self._again()
            console.value("")

    def _repaint(self) -> None:
        with screen.Screen() as terminal:
            while True:
                due = time.monotonic() + self.pause
                while (left := due - time.monotonic()) > 0:
                    terminal.paint(lambda: self._print(f"; every {self.pause:g} s until Ctrl-C"))
                    waiting.until(lambda: terminal.resized, min(TICK, left), 0.1)
                self._again()
