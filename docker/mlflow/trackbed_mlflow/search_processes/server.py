"""One search process: it answers what workers hand on, and ends when it is told to or nobody has asked for a while."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trackbed_mlflow.edge import identity
from trackbed_mlflow.search_processes import wire

IDLE_SECONDS = 300.0
LOOK_SECONDS = 10.0  # gunicorn expects a sign of life within 120 s
ALIVE_SECONDS = 5.0  # how often each waiting worker hears that this process runs
LAST_SECONDS = 0.1  # for those who have connected before the socket's name went
NICENESS = 5  # logging has the processor first
FIRST_TO_KILL = 500  # of 1000: where memory ends, Linux kills this process before a worker

log = logging.getLogger("uvicorn.error")  # as errors of the workers


class SearchServer:
    """Serves ``app``, which is behind all checks: the workers have made them."""

    def __init__(self, app: wire.App, heartbeat: Callable[[], object], grace: float) -> None:
        self.app = app
        self.heartbeat = heartbeat
        self.grace = grace  # seconds for running requests at the end
        self.stop = asyncio.Event()  # to end
        self.tasks: set[asyncio.Task[Any]] = set()
        self.writers: set[asyncio.StreamWriter] = set()
        self.last_request = time.monotonic()

    @property
    def idle(self) -> bool:
        return not self.tasks and time.monotonic() - self.last_request >= IDLE_SECONDS

    async def serve(self, listener: socket.socket, leave: Callable[[], object]) -> None:
        """``leave``: takes away the name of the socket, so that nobody is refused who has just connected."""
        server = await asyncio.start_unix_server(self._connected, sock=listener, limit=wire.BLOCK)
        telling = asyncio.ensure_future(self._tell_alive())
        while not self.stop.is_set() and not self.idle:
            self.heartbeat()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), LOOK_SECONDS)
        leave()
        await asyncio.sleep(LAST_SECONDS)
        server.close()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=self.grace)
        telling.cancel()

    async def _tell_alive(self) -> None:
        """Searches are in threads: a process that is only slow says so, and one that is frozen does not."""
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            for writer in self.writers:
                if not writer.transport.get_write_buffer_size():  # otherwise the worker has something to read
                    writer.write(wire.frame(wire.ALIVE, b""))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.writers.add(writer)
        try:
            scope, body, login = await wire.read_request(reader)
            identity.login.set(login)  # of this task alone
            await self._answer(scope, body, reader, writer)
        except (OSError, EOFError):
            pass  # the worker has gone
        except ValueError as error:
            log.error("What a worker sent is no request: %s", error)
        finally:
            self.writers.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()  # the process ends when no task is left, and what was not sent yet with it
            self.tasks.discard(task)
            self.last_request = time.monotonic()

    async def _answer(
        self, scope: wire.Scope, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        received = started = False

        async def receive() -> wire.Message:
            nonlocal received
            if not received:
                received = True
                return {"type": "http.request", "body": body, "more_body": False}
            with suppress(OSError):
                await reader.read(1)  # nothing comes but the end
            return {"type": "http.disconnect"}

        async def send(message: wire.Message) -> None:
            nonlocal started
            started = True
            with suppress(OSError):  # who has gone needs no answer
                for frame in wire.answer(message):
                    writer.write(frame)
                    await writer.drain()

        try:
            await self.app(scope, receive, send)
        except Exception:
            log.exception("Exception in ASGI application")
            if not started:  # as uvicorn answers
                headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
                await send({"type": "http.response.start", "status": 500, "headers": headers})
                await send({"type": "http.response.body", "body": b"Internal Server Error"})


def lower_priority() -> None:
    """Before this process, logging gets the processor, and it keeps its memory."""
    with suppress(OSError):  # some sandboxes forbid it
        os.nice(NICENESS)
    with suppress(OSError):  # not Linux
        with open("/proc/self/oom_score_adj", "r+") as stream:
            if int(stream.read()) < FIRST_TO_KILL:
                stream.seek(0)
                stream.write(str(FIRST_TO_KILL))
