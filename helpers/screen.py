"""Text that is painted again in one place: the whole of a terminal, until Ctrl-C.

On a terminal it takes the other screen, as editors do: what was there comes back, and a new size breaks nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

LEFT_OUT = "... {} more: make the terminal taller"


class _Terminal(io.StringIO):
    """What is printed to it is text for a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def _kept() -> Iterator[_Terminal]:
    """What is printed meanwhile, values and notices in their order."""
    text = _Terminal()
    text.encoding = sys.stdout.encoding or "ascii"
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield text


def fitted(text: str, columns: int, lines: int) -> str:
    """As many lines as a terminal of that size has room for; the last one says how many are left out."""
    from rich.text import Text

    pieces = Text.from_ansi(text).split("\n")
    heights = [max(1, -(-piece.cell_len // columns)) for piece in pieces]
    if sum(heights) <= lines:
        return text
    shown = 0
    while shown < len(pieces) and sum(heights[: shown + 1]) < lines:
        shown += 1
    return "\n".join([*text.split("\n")[:shown], LEFT_OUT.format(len(pieces) - shown)])


class Screen:
    """A context manager. ``paint`` shows what ``draw`` prints, by the width that there is now."""

    def __init__(self) -> None:
        self._size = os.terminal_size((0, 0))
        self._live: Any = None

    def __enter__(self) -> Screen:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        terminal = Console(file=sys.stdout, highlight=False)
        self._live = Live(Text(""), console=terminal, screen=True, auto_refresh=False, redirect_stdout=False)
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    @property
    def resized(self) -> bool:
        return shutil.get_terminal_size() != self._size

    def paint(self, draw: Callable[[], None]) -> None:
        from rich.text import Text

        columns, lines = self._size = shutil.get_terminal_size()
        with _kept() as text:
            draw()
        shown = fitted(text.getvalue().rstrip("\n"), columns, lines)
        self._live.update(Text.from_ansi(shown, overflow="fold"), refresh=True)
