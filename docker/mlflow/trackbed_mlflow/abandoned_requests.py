"""Requests whose client has gone: not begun any more, and stopped where they wait in PostgreSQL.

A client that timed out asks again. Without this both its requests are run, and 20 clients that waited for a locked
table made 200 runs. What has not been committed may end: nobody was told that it is there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from trackbed_mlflow.errors import say

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

WATCH_SECONDS = 0.05  # most requests have ended by then, and need nobody who listens for their client's end
# A request that is at work for a shorter time is left to end by itself: some clients send and do not wait.
LEFT_SECONDS = 1.0
CANCELLERS = 2  # threads: each cancel is a connection to PostgreSQL


class ClientGone(Exception):
    """The client of this request has gone."""


class Client:
    """Who waits for one request's answer. ``receive`` is for the application, in place of the server's own."""

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self.connection: Any = None  # of psycopg2, while it executes a statement of this request
        self.lock = threading.Lock()  # held while it is cancelled: it must not serve another request meanwhile
        self._receive = receive
        self._whole = self._due = self._ended = False
        self._listener: asyncio.Task[Message] | None = None
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer = self._loop.call_later(WATCH_SECONDS, self._watch)

    async def receive(self) -> Message:
        """The next message of the client; after its whole body only its end."""
        if self._whole:
            return await asyncio.shield(self._listen())
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._left()
        elif not message.get("more_body", False):
            self._whole = True
            if self._due:
                self._listen()
        return message

    def _watch(self) -> None:
        self._due = True
        if self._whole:
            self._listen()

    def _listen(self) -> asyncio.Task[Message]:
        if self._listener is None:
            self._listener = self._loop.create_task(self._wait())
        return self._listener

    async def _wait(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._left()
        return message

    def _left(self) -> None:
        if self.gone or self._ended:
            return
        self.gone = True
        age = self._loop.time() - self._began
        self._timer = self._loop.call_later(max(0.0, LEFT_SECONDS - age), self._stop)

    @property
    def may_stop(self) -> bool:
        """It is at work for so long that its client has not just sent it and left."""
        return self._loop.time() - self._began >= LEFT_SECONDS

    def _stop(self) -> None:
        if not self._ended and self.connection is not None:
            cancellers().submit(self.cancel)

    def cancel(self) -> None:
        """End the statement that is executed for this request, if there is one. Waits for the server's word."""
        with self.lock:
            if self.connection is not None:
                try:
                    self.connection.cancel()
                except Exception as error:  # the connection has just ended: so has the statement
                    say(f"a statement of a client that has gone could not be cancelled: {error!r}")

    def end(self) -> None:
        """The request has been answered."""
        self._ended = True
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()


current: ContextVar[Client | None] = ContextVar("client", default=None)
_pool: ThreadPoolExecutor | None = None


def cancellers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:  # made by the worker: threads do not survive a fork
        _pool = ThreadPoolExecutor(CANCELLERS, "cancel")
    return _pool


class WantedOnly(ThreadPoolExecutor):
    """Threads that do not begin what nobody waits for any more."""

    def submit(self, fn: Callable[..., Any], /, *arguments: Any, **words: Any) -> Any:
        return super().submit(self._begin, current.get(), fn, arguments, words)

    @staticmethod
    def _begin(client: Client | None, fn: Callable[..., Any], arguments: Any, words: Any) -> Any:
        if client is not None and client.gone:
            raise asyncio.CancelledError
        return fn(*arguments, **words)


def wanted_only(wsgi: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that is not run for a client that has gone while its request waited for a thread."""

    def run(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        client = current.get()
        if client is not None and client.gone:
            start("499 CLIENT CLOSED REQUEST", [("Content-Length", "0")])
            return []
        return wsgi(environ, start)

    return run


def in_database(engines: Iterable[Any]) -> None:
    """Statements of requests whose client has gone are not executed, and those that are executed can be cancelled."""
    from sqlalchemy import event

    def before(connection: Any, cursor: Any, *_: Any) -> None:
        client = current.get()
        if client is not None:
            if client.gone and client.may_stop:
                raise ClientGone
            with client.lock:
                client.connection = cursor.connection

    def after(*_: Any) -> None:
        client = current.get()
        if client is not None:
            with client.lock:
                client.connection = None

    for engine in {id(engine): engine for engine in engines}.values():
        if engine.dialect.driver != "psycopg2":
            continue
        event.listen(engine, "before_cursor_execute", before)
        event.listen(engine, "after_cursor_execute", after)
        event.listen(engine, "handle_error", after)
