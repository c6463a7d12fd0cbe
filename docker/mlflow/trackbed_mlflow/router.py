"""Which way a request goes through MLflow: its own, the fast path, or the pool of those that wait for the artifacts."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trackbed_mlflow import abandoned_requests, artifact_pool, request_queues
from trackbed_mlflow.request_queues import ConcurrencyLimiter, Queues
from trackbed_mlflow.search_processes.pool import SearchProcesses

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Router:
    """Requests of ``paths`` go to ``fast``, those that wait for the object store to ``store``, others to ``full``."""

    def __init__(
        self,
        full: App,
        store: App,
        queues: Queues,
        fast: App | None = None,
        paths: frozenset[str] = frozenset(),
        processes: SearchProcesses | None = None,
    ) -> None:
        self.full = full
        self.store = store
        self.queues = queues
        self.fast = fast or full
        self.paths = paths
        self.processes = processes or SearchProcesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.full(scope, receive, send)
            return
        client = abandoned_requests.Client(receive)
        abandoned_requests.current.set(client)  # the server makes a task, and so a context, for each request
        try:
            await self.route(scope, client, send)
        finally:
            client.end()

    async def route(self, scope: Scope, client: abandoned_requests.Client, send: Send) -> None:
        path, method, query = scope["path"], scope.get("method", ""), scope.get("query_string", b"")
        fast = path in self.paths and not scope.get("root_path")
        store = not fast and artifact_pool.waits_for_store(path)
        if not (request_queues.lists(path, method) if store else request_queues.computes(path, method, query)):
            app = self.fast if fast else self.store if store else self.full  # the fast one has queues of its own
            await app(scope, client.receive, send)
            return
        body, receive = await whole(client.receive)
        if path == artifact_pool.GRAPHQL:
            store = bool(query or artifact_pool.ARTIFACTS_IN_GRAPHQL.search(body))
        with self.processes.pending("lists" if store else "computing") as pending:

            async def begun(message: MutableMapping[str, Any]) -> None:
                pending.end()
                await send(message)

            if await self.processes.answered(pending, scope, client, body, begun):
                return
            if fast:
                await self.fast(scope, receive, begun)
            elif store:
                await queued(self.store, self.queues.lists, scope, client, begun, receive)
            else:
                await queued(self.full, self.queues.computing, scope, client, begun, receive)


async def whole(receive: Receive) -> tuple[bytes, Receive]:
    """The body of a request, and what gives its messages once more."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    left = deque(messages)

    async def again() -> MutableMapping[str, Any]:
        return left.popleft() if left else await receive()

    return b"".join(message.get("body", b"") for message in messages), again


async def queued(
    app: App,
    limiter: ConcurrencyLimiter,
    scope: Scope,
    client: abandoned_requests.Client,
    send: Send,
    receive: Receive,
) -> None:
    """``app`` when it is this request's turn. A body that comes slowly, or is read slowly, takes nobody's turn."""
    try:
        end = await limiter.take(request_queues.in_database())
    except request_queues.Busy as busy:
        await artifact_pool.refuse(send, str(busy))
        return

    async def sent(message: MutableMapping[str, Any]) -> None:
        end()  # the work is done, and its client may take its time
        await send(message)

    try:
        if not client.gone:
            await app(scope, receive, sent)
    finally:
        end()
