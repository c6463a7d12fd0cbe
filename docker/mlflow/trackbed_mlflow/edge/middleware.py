"""The outermost layer of the MLflow server: what every request has to pass, whichever way it then takes.

In this order: the access token, whose page asks, whether the address is offered, how much the request brings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from trackbed_mlflow import jobs
from trackbed_mlflow.edge import access_token, body_limits, origins, presigned_urls, routes, unread_bodies
from trackbed_mlflow.edge.access_token import App, Receive, Scope, Send
from trackbed_mlflow.start_page import application, link

NUL = "A NUL character (%00) cannot be part of an address. Remove it"  # neither database nor store takes one
LONGEST = 8192  # letters of a path, twice the longest of a file; what judges it looks several times at each
LONG = f"The path of an address may have {LONGEST:,} letters. Choose a shorter name"
ORIGINS = "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"


class Edge:
    """Refuses what this project does not offer; passes on the rest as it came."""

    def __init__(self, app: App, origins: origins.Origins, routes: routes.Judge, job_token: str = "") -> None:
        self.app = app
        self.origins = origins
        self.routes = routes
        self.job_token = job_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})  # MLflow has none
            return
        method = scope["method"]
        if len(scope["path"]) > LONGEST:
            await refuse(scope, send, 414, LONG)
            return
        if reason := self.origins.refusal(method, scope["headers"]):
            await refuse(scope, send, 403, reason)
            return
        if (refusal := self.routes.refusal(scope["path"], method)) and not (
            scope["path"] in application.PATHS
            or ((method, scope["path"]) == jobs.MODEL_CALL and jobs.is_job(scope["headers"], self.job_token))
        ):
            if address := self.routes.meant(scope["path"], method):
                await redirect(scope, send, address)
            else:
                await refuse(scope, send, *refusal)
            return
        if b"%00" in scope["query_string"] or "\0" in scope["path"]:
            await refuse(scope, send, 400, NUL)
            return
        try:
            bounded = body_limits.bounded(scope, receive)
        except body_limits.Refused as refused:
            await refuse(scope, send, *refused.answer)
            return
        if bounded is None:
            await self.app(scope, receive, send)
        else:
            await self._counting(scope, bounded, send)

    async def _counting(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application with a body that may turn out too large while it is read."""
        started = over = False

        async def received() -> MutableMapping[str, Any]:
            nonlocal over
            try:
                return await receive()
            except body_limits.Refused as refused:
                if not over and not started:
                    await refuse(scope, send, *refused.answer)
                over = True
                raise

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if not over:  # what the application makes of the exception is not for the client
                started = True
                await send(message)

        try:
            await self.app(scope, received, sent)
        except Exception:
            if not over:
                raise


async def refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    """An answer of this layer's own, in the form of MLflow's errors."""
    body = routes.body(status, reason)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ],
        }
    )
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def redirect(scope: Scope, send: Send, path: str) -> None:
    """To another path with the same method, query and body. What is asked there is judged like any request."""
    headers = [
        (b"location", access_token.location(path, scope["query_string"].decode("latin-1"))),
        (b"content-length", b"0"),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def guarded(app: App, environment: Mapping[str, str] = os.environ) -> App:
    """``app`` (MLflow behind the router) behind all checks."""
    own_origins = origins.Origins(environment.get(ORIGINS, "").split(","))
    judge = routes.Judge(routes.table(jobs.enabled(environment)))
    edge = Edge(presigned_urls.closed(app), own_origins, judge, environment.get(jobs.TOKEN, ""))
    guards = link.opened(access_token.protected(edge, environment), environment)
    return unread_bodies.drained(guards)
