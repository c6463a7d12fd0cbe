"""Questions whose answers take their time elsewhere, asked side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, overload

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
MOST = 8  # at a time


@overload
def ask(first: Callable[[], A], second: Callable[[], B], /) -> tuple[A, B]: ...
@overload
def ask(first: Callable[[], A], second: Callable[[], B], third: Callable[[], C], /) -> tuple[A, B, C]: ...
def ask(*questions: Callable[[], object]) -> tuple[object, ...]:
    """The answers. Raises what the first of the questions that failed raised, once all have ended."""
    return tuple(each(questions))


def each(questions: Iterable[Callable[[], A]], at_once: bool = True) -> list[A]:
    """The same for any number of one kind. ``at_once``: False asks them one after the other."""
    asked = list(questions)
    if not at_once or len(asked) < 2:
        return [question() for question in asked]
    with ThreadPoolExecutor(min(MOST, len(asked))) as pool:
        return [future.result() for future in [pool.submit(question) for question in asked]]
