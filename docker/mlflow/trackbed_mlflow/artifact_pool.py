"""Requests that wait for the object store, apart from all others.

A store that does not answer (a frozen disk, a cut network) holds each request for minutes. In one pool with the others
30 lists of artifacts were enough for a log_metric to wait as long. Here they have an event loop and threads of their
own: whatever MLflow does in them, it keeps waiting only those that ask for artifacts.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from trackbed_mlflow import abandoned_requests
from trackbed_mlflow.errors import say

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

WAITING = 256  # requests in a worker that wait for the store; the next ones are told to come again
RETRY_SECONDS = 5
# without a byte from either side: a request that only asks; one that carries a file, which may be copied whole at its
# end (MLflow fetches a file from the store before it sends its first byte)
QUIET_SECONDS, QUIET_TRANSFER_SECONDS = 60.0, 600.0
BLOCK = 1 << 20  # bytes of a body that cross between the loops at once
FILE_BLOCK = 1 << 20  # bytes of a file in one piece of an answer

# Which requests these are: a test walks MLflow's own code for all that reach the store.
PATHS = re.compile(
    r"/(?:ajax-)?api/[23]\.0/(?:mlflow-artifacts/|mlflow/(?:artifacts/|upload-artifact|get-trace-artifact"
    r"|logged-models/[^/]+/artifacts/))"
    r"|/(?:model-versions/)?get-artifact"
)
# traces lie there only when MLflow was told to archive them
ARCHIVED = re.compile(r"/(?:ajax-)?api/[23]\.0/mlflow/traces/(?:get|batchGet|delete-traces)")
GRAPHQL = "/graphql"
ARTIFACTS_IN_GRAPHQL = re.compile(rb"istArtifacts|\\u")  # the one query for artifacts, or its name in other letters
TRANSFER = re.compile(
    r"/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts/.|.*(?:get|upload)-(?:trace-)?artifact"
    r"|.*/artifacts/files|.*/mpu/complete/"
)


def waits_for_store(path: str) -> bool:
    """Whether a request for this path may ask the object store."""
    return bool(PATHS.match(path) or (os.environ.get("MLFLOW_TRACE_ARCHIVAL_CONFIG") and ARCHIVED.match(path)))


class ArtifactPool:
    """``app`` for requests that wait for the store: in a loop of its own, with a limit and a time-out."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.loop: asyncio.AbstractEventLoop | None = None  # made by the worker: threads do not survive a fork
        self.waiting = 0

    def start(self) -> asyncio.AbstractEventLoop:
        try:
            from uvloop import new_event_loop  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            new_event_loop = asyncio.new_event_loop
        loop: asyncio.AbstractEventLoop = new_event_loop()
        # for MLflow's own handlers of files: as many as asyncio would take; Flask's have the 40 of anyio for each loop
        loop.set_default_executor(abandoned_requests.WantedOnly(min(32, (os.cpu_count() or 1) + 4), "store-file"))
        threading.Thread(target=loop.run_forever, name="store", daemon=True).start()
        return loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.waiting >= WAITING:
            await refuse(send, "too many requests wait for the object store")
            return
        if self.loop is None:
            self.loop = self.start()
        await _Crossing(self, scope, receive, send).run()


class _Crossing:
    """One request, between the server's loop and the store's."""

    def __init__(self, pool: ArtifactPool, scope: Scope, receive: Receive, send: Send) -> None:
        self.pool, self.scope, self.receive, self.send = pool, scope, receive, send
        self.main = asyncio.get_running_loop()
        self.seen = self.main.time()  # when the last byte came or went
        self.waits = self.started = self.left = False

    async def run(self) -> None:
        assert self.pool.loop is not None
        quiet = QUIET_TRANSFER_SECONDS if TRANSFER.match(self.scope["path"]) else QUIET_SECONDS
        running = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._work(), self.pool.loop))
        try:
            while not running.done():
                rest = self.seen + quiet - self.main.time()
                if rest <= 0 and self.waits:
                    self.left = True  # its thread may hang on; what it says later is for nobody
                    running.add_done_callback(_forget)
                    await refuse(self.send, "the object store does not answer")
                    return
                await asyncio.wait((running,), timeout=max(rest, 1.0))
            if not running.cancelled():
                running.result()
        finally:
            self._wait(False)
            if not self.left and not running.done():
                running.cancel()

    async def _work(self) -> None:
        await self.pool.app(self.scope, self._receive, self._send)

    def _wait(self, waits: bool) -> None:
        """Between a whole body and the first word of the answer a request waits for the store."""
        if waits != self.waits:
            self.waits = waits
            self.pool.waiting += 1 if waits else -1

    # called in the store's loop

    async def _receive(self) -> Message:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._pull(), self.main))

    async def _send(self, message: Message) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._push(message), self.main))

    # called in the server's loop

    async def _pull(self) -> Message:
        parts: list[bytes] = []
        size, more = 0, True
        while more and size < BLOCK:
            message = await self.receive()
            self.seen = self.main.time()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        if not more and not self.started and not self.left:
            self._wait(True)
        return {"type": "http.request", "body": b"".join(parts), "more_body": more}

    async def _push(self, message: Message) -> None:
        if self.left:
            return
        self.started = True
        self._wait(False)
        if message["type"] == "http.response.start" and message["status"] == 503:
            message = {**message, "headers": _with_pause(message["headers"])}
        self.seen = self.main.time()
        await self.send(message)
        self.seen = self.main.time()


def _with_pause(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With the time after which a client should ask again."""
    given = list(headers)
    if any(name.lower() == b"retry-after" for name, _ in given):
        return given
    return [*given, (b"retry-after", str(RETRY_SECONDS).encode())]


def larger_blocks() -> None:
    """Artifacts from a folder leave in larger pieces.

    Starlette's own are 64 KiB, and each goes its way through the threads and MLflow's middlewares.
    """
    from starlette.responses import FileResponse  # type: ignore[import-not-found]

    own = getattr(FileResponse, "chunk_size", None)
    if not isinstance(own, int):
        say("files leave in Starlette's own pieces: it has no chunk_size")
        return
    FileResponse.chunk_size = max(own, FILE_BLOCK)


def _forget(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # looked at, so that nobody reports it


async def refuse(send: Send, why: str) -> None:
    """503 in MLflow's own form; its clients come again after a while."""
    body = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": f"{why}; try again later"}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 503,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"retry-after", str(RETRY_SECONDS).encode()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
