"""Queues of requests by what they cost: logging never waits behind work that computes or that waits for the store.

Threads of a worker share Python's lock, so more searches at once are not faster, and a log_metric beside them waits for
the lock at each of its statements. Each queue has a bound and a time-out, and then the answer 503 with Retry-After,
after which MLflow's clients come again.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable

from trackbed_mlflow import abandoned_requests, download_addresses

# What computes: searches, histories, what walks many rows. The first with every method, the second only as a question.
# Whole segments: a pattern that begins at each letter takes seconds for a long address.
COMPUTING = re.compile(
    r"/(?:ajax-)?api/[0-9.]+/?mlflow/(?:.*/)?(?:search[a-z-]*|get-history[a-z-]*|unified-traces|batchGet(?:Infos)?"
    r"|calculate-filter-correlation|traces/metrics|get-latest-versions)|/graphql"
)
COMPUTING_GET = re.compile(r"/(?:ajax-)?api/[0-9.]+/mlflow/(?:traces|.+/(?:list|records|experiment-ids))")
# What lists artifacts: it waits for the store and then computes. So does what signs addresses of many, 0.15 s long.
LISTS = re.compile(
    r"/(?:ajax-)?api/2\.0/(?:mlflow-artifacts/artifacts|mlflow/(?:artifacts/list|logged-models/[^/]+/artifacts/directories))"
)
ASKING = ("GET", "HEAD")  # Flask answers both with the same work
SMALLEST = b"max_results=1"  # of experiments: the question whether the server is well
SWITCH_SECONDS = 0.0005  # for which a thread keeps Python's lock while others wait; Python's own 5 ms add up


class Busy(Exception):
    """No turn: too many wait already, or this one waited for too long."""


def always() -> bool:
    return True


def in_database() -> Callable[[], bool]:
    """Whether the current request executes a statement: PostgreSQL works or waits then, and Python does not."""
    client = abandoned_requests.current.get()
    return lambda: client is not None and client.connection is not None


class ConcurrencyLimiter:
    """At most ``at_once`` requests in work; one that takes longer than ``long`` seconds may make room for another.

    Never more than ``most`` together. Those that wait go in order: at most ``queue``, for at most ``seconds``.
    """

    def __init__(self, at_once: int, most: int, long: float, queue: int, seconds: float) -> None:
        self.free, self.places = at_once, most
        self.long, self.queue, self.seconds = long, queue, seconds
        self.waiting: dict[asyncio.Future[None], abandoned_requests.Client | None] = {}  # in their order

    async def take(self, makes_room: Callable[[], bool] = always) -> Callable[[], None]:
        """Returns when it is this request's turn, with what ends the turn. Raises Busy."""
        if self._admits:
            self._enter()
            return _Turn(self, makes_room).end
        if len(self.waiting) >= self.queue:
            self._leave_out_gone()
        if len(self.waiting) >= self.queue:
            raise Busy("too many requests wait")
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self.waiting[turn] = abandoned_requests.current.get()
        timer = loop.call_later(self.seconds, _expire, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.leave(counted=True)  # it was given the turn and cannot take it
            raise
        finally:
            timer.cancel()
            self.waiting.pop(turn, None)
        return _Turn(self, makes_room).end

    @property
    def _admits(self) -> bool:
        return self.free > 0 and self.places > 0

    def _enter(self) -> None:
        self.free -= 1
        self.places -= 1

    def leave(self, counted: bool) -> None:
        self.places += 1
        if counted:
            self.free += 1
        self._next()

    def make_room(self) -> None:
        self.free += 1
        self._next()

    def _leave_out_gone(self) -> None:
        """Clients that have gone take no place of those that wait: a page that is loaded again asks for all anew."""
        for turn in [turn for turn, client in self.waiting.items() if client is not None and client.gone]:
            del self.waiting[turn]
            _expire(turn)

    def _next(self) -> None:
        while self.waiting and self._admits:
            turn = next(iter(self.waiting))
            del self.waiting[turn]
            if not turn.done():
                self._enter()
                turn.set_result(None)


class _Turn:
    """One request in work."""

    def __init__(self, limiter: ConcurrencyLimiter, makes_room: Callable[[], bool]) -> None:
        self.limiter, self.makes_room = limiter, makes_room
        self.counted, self.ended = True, False
        self._watch()

    def _watch(self) -> None:
        self.timer = asyncio.get_running_loop().call_later(self.limiter.long, self._look)

    def _look(self) -> None:
        if self.makes_room():
            self.counted = False
            self.limiter.make_room()
        else:
            self._watch()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.timer.cancel()
            self.limiter.leave(self.counted)


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(Busy("no turn in time"))


def computes(path: str, method: str = "POST", query: bytes = b"") -> bool:
    """Whether the answer takes much of the processor, as far as the address tells."""
    if path.endswith("/experiments/search") and query == SMALLEST:
        return False
    return bool(COMPUTING.fullmatch(path) or (method in ASKING and COMPUTING_GET.fullmatch(path)))


def lists(path: str, method: str) -> bool:
    """Whether this lists artifacts, or costs as much."""
    return path == download_addresses.PATH or (method in ASKING and bool(LISTS.fullmatch(path)))


class Queues:
    """The queues of one worker. With THREADS of the fast path: each that is in work has a thread at once."""

    def __init__(self) -> None:
        # one connection less than a worker has beside a search process, so that a lone search has one too
        self.logging = ConcurrencyLimiter(at_once=2, most=10, long=0.1, queue=1024, seconds=60.0)
        self.computing = ConcurrencyLimiter(at_once=2, most=4, long=1.0, queue=256, seconds=60.0)
        self.lists = ConcurrencyLimiter(at_once=2, most=2, long=60.0, queue=256, seconds=30.0)


def share_the_lock() -> None:
    """Threads that log come to their turn sooner beside threads that compute."""
    sys.setswitchinterval(SWITCH_SECONDS)
