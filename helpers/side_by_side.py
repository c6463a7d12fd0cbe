"""Questions whose answers take their time elsewhere, asked side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
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


def begin(question: Callable[[], A]) -> Callable[[], A]:
    """Asks now. What this gives waits for the answer, or raises what the question raised; nobody has to wait for it,
    and a program that ends does not."""
    future: Future[A] = Future()

    def run() -> None:
        try:
            future.set_result(question())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result
