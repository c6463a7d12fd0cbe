"""A request of ASGI and its answer, as frames through a socket: a letter, a length of 8 bytes, and so many bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, TypeVar

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST, BODY = b"R", b"B"  # a request and its whole body
START, PART, END = b"S", b"P", b"E"  # an answer: status and headers, parts of its body, the last one
ALIVE = b"A"  # between them: the process still works on it
BLOCK = 1 << 18  # bytes of a body in one frame
HEAD = 9
LOOKS = 6  # at a side that is quiet: who has been stopped itself, as by `docker pause`, reads what came meanwhile
AS_THEY_ARE = ("asgi", "http_version", "method", "scheme", "path", "root_path", "client", "server")
BYTES = ("raw_path", "query_string")


def frame(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(HEAD - 1, "big") + data


async def read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next frame. Raises IncompleteReadError where the other side has ended."""
    head = await reader.readexactly(HEAD)
    return head[:1], await reader.readexactly(int.from_bytes(head[1:], "big"))


def request(scope: Scope, body: bytes, login: str) -> Iterator[bytes]:
    """Frames of a request; ``login`` is whose it is."""
    fields = {name: scope[name] for name in AS_THEY_ARE if name in scope}
    fields |= {name: scope[name].decode("latin-1") for name in BYTES if scope.get(name) is not None}
    fields |= {"headers": _texts(scope.get("headers", ())), "login": login}
    yield frame(REQUEST, json.dumps(fields).encode())
    yield frame(BODY, body)


async def read_request(reader: asyncio.StreamReader) -> tuple[Scope, bytes, str]:
    """Scope, whole body, and login."""
    fields = json.loads(await _expected(reader, REQUEST))
    body = await _expected(reader, BODY)
    scope = {"type": "http", "state": {}, **{name: fields[name] for name in AS_THEY_ARE if name in fields}}
    scope |= {name: fields[name].encode("latin-1") for name in BYTES if name in fields}
    scope |= {name: tuple(scope[name]) for name in ("client", "server") if scope.get(name) is not None}
    return {**scope, "headers": _bytes(fields["headers"])}, body, fields["login"]


async def _expected(reader: asyncio.StreamReader, kind: bytes) -> bytes:
    given, data = await read(reader)
    if given != kind:
        raise ValueError(f"a frame {given!r} in the place of {kind!r}")
    return data


def answer(message: Message) -> Iterator[bytes]:
    """Frames of one message of an answer."""
    if message["type"] == "http.response.start":
        fields = {"status": message["status"], "headers": _texts(message.get("headers", ()))}
        yield frame(START, json.dumps(fields).encode())
    elif message["type"] == "http.response.body":
        body = memoryview(message.get("body", b""))
        for begin in range(0, len(body), BLOCK):
            yield frame(PART, bytes(body[begin : begin + BLOCK]))
        if not message.get("more_body", False):
            yield frame(END, b"")


async def watched(step: Awaitable[T], quiet: float, works: Callable[[], bool]) -> T:
    """What ``step`` gives. Raises TimeoutError after ``quiet`` seconds in which the other side did not work either."""
    task, idle = asyncio.ensure_future(step), 0
    try:
        while not (await asyncio.wait((task,), timeout=quiet / LOOKS))[0]:
            idle = 0 if works() else idle + 1
            if idle == LOOKS:
                raise TimeoutError
        return task.result()
    finally:
        task.cancel()


async def read_answer(reader: asyncio.StreamReader, quiet: float, works: Callable[[], bool] = lambda: False) -> Message:
    """The next message of an answer. Raises TimeoutError after ``quiet`` seconds without a frame and without work."""
    kind = ALIVE
    while kind == ALIVE:
        kind, data = await watched(read(reader), quiet, works)
    if kind == START:
        fields = json.loads(data)
        return {"type": "http.response.start", "status": fields["status"], "headers": _bytes(fields["headers"])}
    if kind not in (PART, END):
        raise ValueError(f"a frame {kind!r} in an answer")
    return {"type": "http.response.body", "body": data, "more_body": kind == PART}


def _texts(headers: Iterable[Iterable[bytes]]) -> list[list[str]]:
    return [[part.decode("latin-1") for part in pair] for pair in headers]


def _bytes(headers: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
