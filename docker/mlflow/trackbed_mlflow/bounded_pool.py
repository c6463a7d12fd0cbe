"""Calls by several threads at the same time, with a limit to how many are on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

THREADS = 8


class BoundedPool:
    """Calls made by THREADS threads at the same time; ``limit`` of them are on the way, then ``do`` waits."""

    def __init__(self, limit: int = THREADS) -> None:
        self.limit, self.threads = limit, ThreadPoolExecutor(THREADS)
        self.open: deque[Future[Any]] = deque()

    def do(self, call: Callable[[], Any]) -> Future[Any]:
        """Begin a call; raises what an earlier one raised."""
        if len(self.open) >= self.limit:
            self.next()
        begun = self.threads.submit(call)
        self.open.append(begun)
        return begun

    def next(self) -> Any:
        """The result of the earliest call that is on the way."""
        try:
            return self.open.popleft().result()
        except BaseException:
            self.threads.shutdown(wait=False, cancel_futures=True)  # nobody asks for the others
            raise

    def finish(self) -> list[Any]:
        """Wait for all; gives their results in the order of the calls."""
        return [self.next() for _ in range(len(self.open))]
