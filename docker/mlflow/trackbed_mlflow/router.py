"""Which way a request goes through MLflow: its own, the fast path, or the pool of those that wait for the artifacts."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from trackbed_mlflow import abandoned_requests, artifact_pool

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Router:
    """Requests of ``paths`` go to ``fast``, those that wait for the object store to ``store``, others to ``full``."""

    def __init__(self, full: App, store: App, fast: App | None = None, paths: frozenset[str] = frozenset()) -> None:
        self.full = full
        self.store = store
        self.fast = fast or full
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.full(scope, receive, send)
            return
        client = abandoned_requests.Client(receive)
        abandoned_requests.current.set(client)  # the server makes a task, and so a context, for each request
        try:
            path = scope["path"]
            if path in self.paths and not scope.get("root_path"):
                await self.fast(scope, client.receive, send)
            elif artifact_pool.waits_for_store(path):
                await self.store(scope, client.receive, send)
            elif path == artifact_pool.GRAPHQL:
                await self.graphql(scope, client.receive, send)
            else:
                await self.full(scope, client.receive, send)
        finally:
            client.end()

    async def graphql(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Its body tells whether it asks for artifacts."""
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        body = b"".join(message.get("body", b"") for message in messages)
        left = deque(messages)

        async def again() -> MutableMapping[str, Any]:
            return left.popleft() if left else await receive()

        asks = artifact_pool.ARTIFACTS_IN_GRAPHQL.search(body) or scope.get("query_string")
        await (self.store if asks else self.full)(scope, again, send)
