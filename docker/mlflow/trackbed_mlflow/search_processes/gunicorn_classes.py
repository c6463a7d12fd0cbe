"""gunicorn's first process and its workers, with search processes: forked as workers are, but not counted as such."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from functools import partial
from typing import Any

from trackbed_mlflow import memory_limit
from trackbed_mlflow.errors import say
from trackbed_mlflow.search_processes import server
from trackbed_mlflow.search_processes.pool import PAUSE_SECONDS, processes

SHORT_SECONDS = 5.0  # a process that ends sooner was of no use
NEEDED = ("handle_ttin", "kill_worker", "manage_workers", "reload", "spawn_worker", "WORKERS")  # of gunicorn's Arbiter


class Served:
    """What search processes serve, and SQLAlchemy's engines in it. Set before the workers are forked."""

    def __init__(self) -> None:
        self.app: Any = None
        self.engines: list[Any] = []


served = Served()


def worker_class(base: type, grace: float) -> type:
    """``base``, a worker of uvicorn, that is a search process where it has been given a slot."""

    class Worker(base):  # type: ignore[misc]
        slot: int | None = None
        began = 0.0

        def init_process(self) -> None:
            if self.slot is None:
                super().init_process()
                return
            try:
                super().init_process()
            except SystemExit as end:  # gunicorn takes some codes for a reason to end the whole server
                sys.exit(1 if end.code else 0)
            except Exception as error:
                say(f"a search process did not begin: {error!r}")
                sys.exit(1)

        async def _serve(self) -> None:
            if processes.folder is not None:
                share_connections(self.slot is not None)
            if self.slot is None:
                await super()._serve()
                return
            listener = processes.listen(self.slot)
            for own in self.sockets:
                own.close()
            server.lower_priority()
            memory_limit.leave_reserve()
            one = server.SearchServer(served.app, self.notify, grace)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, one.stop.set)
            loop.add_signal_handler(signal.SIGQUIT, os._exit, 0)
            await one.serve(listener, partial(processes.leave, self.slot))
            os._exit(0)  # as uvicorn ends: threads that still work for nobody keep no process

    return Worker


def arbiter_class(base: type) -> type:
    """``base``, gunicorn's first process, that starts a search process when a worker asks for one."""
    if missing := [name for name in NEEDED if not hasattr(base, name)]:
        raise AttributeError(f"gunicorn's Arbiter has no {', '.join(missing)}")

    class Arbiter(base):  # type: ignore[misc]
        slot: int | None = None  # of the process that is forked now
        pause_until = float("-inf")

        def search_workers(self) -> dict[int, Any]:
            return {pid: worker for pid, worker in self.WORKERS.items() if worker.slot is not None}

        def handle_ttin(self) -> None:
            if not processes.most:
                super().handle_ttin()
                return
            taken = {worker.slot for worker in self.search_workers().values()}
            free = next((slot for slot in range(processes.most) if slot not in taken), None)
            if free is None or time.monotonic() < self.pause_until:
                return
            self.slot = free
            try:
                self.spawn_worker()
            except (OSError, RuntimeError) as error:  # no memory, or too many processes: workers search by themselves
                self.pause_until = time.monotonic() + PAUSE_SECONDS
                say(f"a search process did not begin: {error}")
            finally:
                self.slot = None

        def manage_workers(self) -> None:
            """As many workers as there have to be, whatever searches beside them."""
            searching = self.search_workers()
            for pid in searching:
                del self.WORKERS[pid]
            try:
                super().manage_workers()
            finally:
                self.WORKERS.update(searching)

        def reload(self) -> None:
            """The new workers begin with new search processes."""
            for pid in self.search_workers():
                self.kill_worker(pid, signal.SIGTERM)
            self.pause_until = float("-inf")
            super().reload()

    return Arbiter


def pre_fork(arbiter: Any, worker: Any) -> None:
    """gunicorn's hook in its first process."""
    worker.slot, worker.began = arbiter.slot, time.monotonic()


def child_exit(arbiter: Any, worker: Any) -> None:
    """gunicorn's hook in its first process."""
    now = time.monotonic()
    if worker.slot is not None and now - worker.began < SHORT_SECONDS:
        arbiter.pause_until = now + PAUSE_SECONDS


def share_connections(searches: bool) -> None:
    """A worker and the search process beside it have no more connections to the database than a worker alone has.

    The worker keeps 11 of 15: ten that log at once, and one for a search while no process searches, also when a lock
    in the database holds the ten. A process that searches answers four requests at once.
    """
    for engine in {id(engine): engine for engine in served.engines}.values():
        pool = engine.pool
        try:
            most = pool._pool.maxsize + pool._max_overflow
            search = max(2, most * 4 // 15)
            own = search if searches else max(2, most - search)
            pool._pool.maxsize = min(pool._pool.maxsize, own)
            pool._max_overflow = own - pool._pool.maxsize
        except AttributeError:
            continue  # another kind of pool, as SQLite's
        engine.dispose()  # a new pool of this size
