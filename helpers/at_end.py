"""What a task made for its own use in other places, and takes away when it ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_waiting = ExitStack()  # of the task that runs; a process runs one after the other


def call(function: Callable[[], None]) -> None:
    """Have it called when the task that runs ends."""
    _waiting.callback(function)


@contextmanager
def task() -> Iterator[None]:
    """One task, from its beginning to its end."""
    try:
        yield
    finally:
        _waiting.close()
