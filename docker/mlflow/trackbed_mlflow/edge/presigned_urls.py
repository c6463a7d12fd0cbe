"""The ways to the object store itself, open to the notebook alone.

MLflow would send every client to the store by a name that only this project's own network knows, with a signature of
the server's keys: clients elsewhere, a browser among them, wait for a host that is none. Who is on that network says
which one it is; the notebook's MLflow does (trackbed_notebook/store_network.py). Everybody else is answered as
by a server whose artifacts are in a folder, and goes through MLflow: so does who comes through a proxy, whatever it
says. The word is no secret: who says it wrongly gets addresses that lead nowhere, for what it may read anyway.
Every spelling and twin is here and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from trackbed_mlflow.edge.access_token import App, Receive, Scope, Send

NETWORK = "TRACKBED_STORE_NETWORK"  # its name in the environment; "": nobody reaches the store
HEADER = b"x-trackbed-network"
PROXIED = frozenset({b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"forwarded", b"via"})
WAYS = re.compile(
    r"/+(?:ajax-)?api/+\d+\.\d+/+(?:mlflow-artifacts/+(?P<kind>presigned|mpu)(?:/|$)"
    r"|mlflow/+artifacts/+presigned-(?P<way>upload|download))",
    re.IGNORECASE,
)
SERVER_INFO = re.compile(r"/+(?:ajax-)?api/+\d+\.\d+/+mlflow/+server-info/*", re.IGNORECASE)
OFFERS = re.compile(r"multipart_|presigned_")  # of the server's information: what it can do
# MLflow's own words: its clients read them and send the file through the server instead
UNSUPPORTED = "{} is not supported for the current artifact repository"
KINDS = {
    "presigned": "Multipart download",
    "mpu": "Multipart upload",
    "upload": "Presigned upload",
    "download": "Presigned download",
}


def closed(app: App, environment: Mapping[str, str] = os.environ) -> App:
    """``app`` with direct ways for requests that come from the store's network; others see none of it."""
    network = environment.get(NETWORK, "").encode()

    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
        elif way := WAYS.match(scope["path"]):
            if reaches(scope["headers"], network):
                await app(scope, receive, send)
            else:
                await _unsupported(send, (way["kind"] or way["way"]).lower())
        elif SERVER_INFO.fullmatch(scope["path"]) and not reaches(scope["headers"], network):
            await app(scope, receive, _Unoffered(send).send)
        else:
            await app(scope, receive, send)

    return ask


def reaches(headers: list[tuple[bytes, bytes]], network: bytes) -> bool:
    """Whether who sends these headers is on the store's network, and nothing is in between."""
    return bool(network) and (HEADER, network) in headers and PROXIED.isdisjoint(name for name, _ in headers)


async def _unsupported(send: Send, kind: str) -> None:
    body = json.dumps({"error_code": "NOT_IMPLEMENTED", "message": UNSUPPORTED.format(KINDS[kind])}).encode()
    await send(
        {
            "type": "http.response.start",
            "status": 501,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


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
            reported = {name: False if OFFERS.match(name) else value for name, value in json.loads(body).items()}
            body = json.dumps(reported, separators=(",", ":")).encode()  # as Flask writes it: people look with grep
        except (ValueError, AttributeError):
            pass  # an error's page
        headers = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
        await self.next({**self.start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self.next({"type": "http.response.body", "body": body})
