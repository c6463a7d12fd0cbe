"""A shorter way through MLflow's server for its JSON requests: the same handlers and checks, a fraction of the steps.

MLflow's own way to a Flask handler: two middlewares that each start a task group and copy the answer through streams,
then a bridge that crosses between the thread and the event loop once for each part of the answer. Under load that was
more than half of the processor time of a log_metric. Here: the same security middlewares, one thread, one crossing.

Whatever is not exactly as in the MLflow that this was written for takes MLflow's own way.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trackbed_mlflow import abandoned_requests, artifact_pool, fast_path, request_queues
from trackbed_mlflow.request_queues import Queues
from trackbed_mlflow.router import App, Receive, Scope, Send

# What the skipped middlewares do is nothing for these requests: one times calls of /gateway/, the other resolves a
# workspace, which Flask's own hook does again.
SKIPPED = frozenset({"workspace_context_middleware", "gateway_timing_middleware"})
THREADS = 15  # SQLAlchemy's default pool: 5 connections and 10 more; nobody waits for one


class WSGIBridge:
    """A WSGI application as an ASGI one for answers that are small and whole."""

    def __init__(
        self, wsgi: Callable[..., Iterable[bytes]], environ: Callable[[Scope, bytes], dict[str, Any]], queues: Queues
    ) -> None:
        self.wsgi = wsgi
        self.environ = environ
        self.queues = queues
        self.threads: ThreadPoolExecutor | None = None  # made by the worker: threads do not survive a fork

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        if self.threads is None:
            self.threads = ThreadPoolExecutor(THREADS, "request")
        try:
            end = await self.turn(scope)
        except request_queues.Busy as busy:
            await artifact_pool.refuse(send, str(busy))
            return
        try:
            if (client := abandoned_requests.current.get()) is not None and client.gone:
                return
            status, headers, body = await asyncio.get_running_loop().run_in_executor(
                self.threads, contextvars.copy_context().run, self.answer, self.environ(scope, b"".join(parts))
            )
        finally:
            end()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def turn(self, scope: Scope) -> Callable[[], None]:
        if request_queues.computes(scope["path"], scope.get("method", "POST"), scope.get("query_string", b"")):
            return await self.queues.computing.take(request_queues.in_database())
        return await self.queues.logging.take()

    def answer(self, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body; an exception is the server's error 500, as in MLflow's own way."""
        head: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
            head[:] = [
                int(status.split(" ", 1)[0]),
                [(name.strip().lower().encode("ascii"), value.strip().encode("ascii")) for name, value in headers],
            ]

        chunks = self.wsgi(environ, start)
        try:
            body = b"".join(chunks)
        finally:
            if close := getattr(chunks, "close", None):
                close()
        return head[0], head[1], body


def paths(app: Any, flask: Any, mount: type, full: Any) -> frozenset[str]:
    """The fixed addresses of MLflow's JSON API that only Flask answers."""
    result = set()
    for rule in flask.url_map.iter_rules():
        if rule.arguments or not rule.rule.startswith(("/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/")):
            continue
        if rule.endpoint.startswith("serve_") or artifact_pool.waits_for_store(rule.rule):
            continue  # files, uploads and streams; and what waits for the object store
        scope = {"type": "http", "path": rule.rule, "method": "POST", "root_path": "", "headers": []}
        if not any(route.matches(dict(scope))[0] == full for route in app.routes if not isinstance(route, mount)):
            result.add(rule.rule)
    return frozenset(result)


def application(app: Any, flask: Any, queues: Queues) -> tuple[App | None, frozenset[str]]:
    """What answers the JSON requests of MLflow's FastAPI ``app``, and their addresses; None where it does not fit."""
    with fast_path.part("JSON requests"):
        from starlette.middleware.base import BaseHTTPMiddleware  # type: ignore[import-not-found]
        from starlette.middleware.wsgi import build_environ  # type: ignore[import-not-found]
        from starlette.routing import Match, Mount  # type: ignore[import-not-found]

        middlewares = list(app.user_middleware)
        wrapping = [m for m in middlewares if m.cls is BaseHTTPMiddleware]
        names = {m.kwargs["dispatch"].__name__ for m in wrapping}
        if names != SKIPPED or len(wrapping) != len(SKIPPED) or getattr(app, "max_body_size", None) is not None:
            raise AttributeError(f"other middlewares: {', '.join(sorted(names))}")
        served: Any = WSGIBridge(flask.wsgi_app, build_environ, queues)
        for middleware in reversed([m for m in middlewares if m not in wrapping]):
            served = middleware.cls(served, *middleware.args, **middleware.kwargs)
        return served, paths(app, flask, Mount, Match.FULL)
    return None, frozenset()
