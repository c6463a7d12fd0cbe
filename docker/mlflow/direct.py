"""The ways to the object store itself, closed for requests that came through a proxy.

MLflow would send clients to the store by a name that only this system's own network knows, with a signature of the
server's keys. Who comes through the gateway, or any other proxy, takes the way through MLflow, as with an older server.
Every spelling and twin is here and nowhere else.
"""

from __future__ import annotations

import json
import re
from typing import Any

from access import App, Receive, Scope, Send

PROXIED = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"forwarded", b"via"})
WAYS = re.compile(r"/+(?:ajax-)?api/+\d+\.\d+/+(?:mlflow-artifacts/+(?:presigned|mpu)(?:/|$)"
                  r"|mlflow/+artifacts/+presigned-)", re.IGNORECASE)
SERVER_INFO = re.compile(r"/+(?:ajax-)?api/+\d+\.\d+/+mlflow/+server-info/*", re.IGNORECASE)
OFFERS = re.compile(r"multipart_|presigned_")  # of the server's information: what it can do


def closed(app: App) -> App:
    """``app`` without direct ways for requests that came through a proxy; others see all of it."""

    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or PROXIED.isdisjoint(name for name, _ in scope["headers"]):
            await app(scope, receive, send)
        elif WAYS.match(scope["path"]):
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        elif SERVER_INFO.fullmatch(scope["path"]):
            await app(scope, receive, _Unoffered(send).send)
        else:
            await app(scope, receive, send)

    return ask


class _Unoffered:
    """Changes the server's information on its way: it offers no direct way."""

    def __init__(self, send: Send) -> None:
        self.next = send
        self.start: Any = {"headers": []}
        self.parts: list[bytes] = []

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.parts.append(message.get("body", b""))
        if message.get("more_body"):
            return
        body = b"".join(self.parts)
        try:
            told = json.loads(body)
            body = json.dumps({name: False if OFFERS.match(name) else value for name, value in told.items()}).encode()
        except (ValueError, AttributeError):
            pass  # an error's page
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        await self.next({**self.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.next({"type": "http.response.body", "body": body})
