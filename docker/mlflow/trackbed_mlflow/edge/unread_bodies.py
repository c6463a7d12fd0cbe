"""Answers that are given before the body was read reach the client whole.

The server closes a connection right after such an answer where it may not be kept, while the client is still sending:
the kernel then resets it, and the client, or a gateway in front, sees a broken connection in place of the reason.
So the rest is read first, or after the answer and before the close, as far as it is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable

from trackbed_mlflow.edge.access_token import App, Receive, Scope, Send

FIRST_BYTES, FIRST_SECONDS = 1 << 20, 1.0  # what is read before the answer: then nothing shows of it at all
LAST_BYTES, LAST_SECONDS, QUIET_SECONDS = 256 << 20, 30.0, 5.0  # after it: of the whole rest, without a byte
CLOSE = (b"connection", b"close")


def brings(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request has a body."""
    for name, value in headers:
        if (name == b"content-length" and value != b"0") or name == b"transfer-encoding":
            return True
    return False


class Exchange:
    """The two sides of one request with a body."""

    __slots__ = ("_asked", "_receive", "_scope", "_send", "_whole")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._asked = self._whole = False

    async def receive(self) -> Scope:
        self._asked = True
        message = await self._receive()
        if not message.get("more_body", False):  # the end of the body, or of the client
            self._whole = True
        return message

    def send(self, message: Scope) -> Awaitable[None]:
        return self._send(message) if self._whole else self._early(message)

    async def _early(self, message: Scope) -> None:
        if message["type"] == "http.response.start":
            await self._read(FIRST_BYTES, FIRST_SECONDS, FIRST_SECONDS)
            if not self._whole:  # nothing else may follow on this connection
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await self._send(message)
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._read(LAST_BYTES, LAST_SECONDS, QUIET_SECONDS)
            await self._send({"type": "http.response.body", "body": b""})

    async def _read(self, most: int, seconds: float, quiet: float) -> None:
        """Drop what the client still sends."""
        if not self._asked and any(name == b"expect" for name, _ in self._scope["headers"]):
            return  # who waits for `100 Continue` sends nothing before, and nothing at all after another answer
        end = asyncio.get_running_loop().time() + seconds
        while not self._whole and most > 0:
            try:
                left = end - asyncio.get_running_loop().time()
                message = await asyncio.wait_for(self._receive(), max(min(left, quiet), 0.0))
            except TimeoutError:
                return
            most -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)


def drained(app: App) -> App:
    """``app`` whose clients get their answer also where it does not read what they send."""

    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and brings(scope["headers"]):
            exchange = Exchange(scope, receive, send)
            await app(scope, exchange.receive, exchange.send)
        else:
            await app(scope, receive, send)

    return ask
