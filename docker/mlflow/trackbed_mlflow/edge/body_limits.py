"""Bounds of what a request may bring: bodies that are read whole have a limit, also of what they unpack to."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from trackbed_mlflow.edge import graphql_limits, span_limits
from trackbed_mlflow.edge.access_token import Receive, Scope

LIMIT = 32 << 20  # bytes; MLflow's own largest request, a page's upload, has 10 MiB. JSON takes 25 times as much memory
TRACES = "/v1/traces"  # the only address that unpacks what it gets
STREAMED = ("/api/2.0/mlflow-artifacts/artifacts/", "/ajax-api/2.0/mlflow-artifacts/artifacts/")  # as long as they are
FILE = "/ajax-api/2.0/mlflow/upload-artifact"  # its body is no JSON
# What of JSON there may be: 32 MiB hold ten times as much, and while Python makes its values, seconds long and of a
# gigabyte, no other request of the worker goes on. In text they count too: telling strings apart takes as long.
SIGNS, MOST_SIGNS = (b"{", b"[", b":", b","), 2_000_000
UNKNOWN_ENCODING = (415, "Content-Encoding may be gzip or deflate")
TWO_KINDS = (400, "A request has one Content-Type")
DAMAGED = (400, "The body is not what its Content-Encoding says")
CHUNK = 1 << 20


LONG_QUERY = (413, f"A GraphQL request may have {graphql_limits.BODY >> 20} MiB")
TOO_LARGE = (413, f"A request may have {LIMIT >> 20} MiB, also unpacked. Send less at once; files go as artifacts")
TOO_DENSE = (
    413,
    f"A request may have {MOST_SIGNS:,} commas, colons and opening brackets. Send less at once; files go as artifacts",
)
TOO_MANY = (413, f"A request may have {span_limits.SPANS} spans. Send fewer at once")


class Refused(Exception):
    """The body breaks a rule; the answer is status and reason."""

    def __init__(self, answer: tuple[int, str]) -> None:
        super().__init__(answer[1])
        self.answer = answer


class Unpacker:
    """Unpacks gzip (of several members too) and deflate (with zlib's header or without) as it comes."""

    def __init__(self, encoding: str) -> None:
        self.gzip = encoding == "gzip"
        self.unpacker: Any = self._new(zlib.MAX_WBITS | 16) if self.gzip else None
        self.head = b""  # of deflate, until there is enough to see which of its two kinds it is

    @staticmethod
    def _new(bits: int) -> Any:
        return zlib.decompressobj(bits)

    def feed(self, data: bytes, room: int) -> bytes:
        """The bytes that ``data`` unpacks to. Raises Refused as soon as they are more than ``room``."""
        if self.unpacker is None:
            self.head += data
            if len(self.head) < 2:
                return b""
            data, first = self.head, self.head[0]
            zlibs = first & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self.unpacker = self._new(zlib.MAX_WBITS if zlibs else -zlib.MAX_WBITS)
        result, size = [], 0
        try:
            while data:
                if self.unpacker.eof:
                    if not self.gzip or not data.strip(b"\0"):
                        break  # as Python's own: zeros may follow gzip
                    self.unpacker = self._new(zlib.MAX_WBITS | 16)
                more = True
                while more:
                    part = self.unpacker.decompress(data, CHUNK)
                    size += len(part)
                    if size > room:
                        raise Refused(TOO_LARGE)
                    result.append(part)
                    data = self.unpacker.unconsumed_tail
                    more = not self.unpacker.eof and (bool(data) or len(part) == CHUNK)
                data = self.unpacker.unused_data if self.unpacker.eof else b""
        except zlib.error:
            raise Refused(DAMAGED) from None
        return b"".join(result)

    def end(self) -> None:
        if self.unpacker is None or not self.unpacker.eof:
            raise Refused(DAMAGED)


def bounded(scope: Scope, receive: Receive) -> Receive | None:
    """What the application receives from instead; None: as it is. Raises Refused where the headers tell enough."""
    if scope["method"] == "PUT" and scope["path"].startswith(STREAMED):
        return None
    length, chunked, encodings, kinds = 0, False, [], []
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() else 0
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"content-encoding":
            encodings += [word.strip().lower() for word in value.decode("latin-1").split(",")]
        elif name == b"content-type":
            kinds.append(value)
    if length > LIMIT:
        raise Refused(TOO_LARGE)
    if scope["path"] == graphql_limits.PATH:
        if length > graphql_limits.BODY:
            raise Refused(LONG_QUERY)
        return _counted(receive, _query) if chunked else None
    if scope["path"] != TRACES:
        if not chunked and length <= span_limits.SMALL:
            return None
        return _counted(receive, _whole, None if scope["path"] == FILE else _check_json)
    if len(kinds) > 1:  # MLflow reads one of them
        raise Refused(TWO_KINDS)
    encodings = [word for word in encodings if word not in ("", "identity")]
    if not encodings and not chunked and length <= span_limits.SMALL:
        return None
    is_json = bool(kinds) and kinds[0].split(b";")[0].strip() == b"application/json"  # as MLflow reads it
    if not encodings:
        return _counted(receive, _whole, lambda body: _check_spans(body, is_json))
    if len(encodings) > 1 or encodings[0] not in ("gzip", "deflate"):
        raise Refused(UNKNOWN_ENCODING)
    unpacker = Unpacker(encodings[0])
    scope["headers"] = [
        (name, value) for name, value in scope["headers"] if name not in (b"content-encoding", b"content-length")
    ]

    def end(body: bytes) -> None:
        unpacker.end()
        _check_spans(body, is_json)

    return _counted(receive, unpacker.feed, end)


def _whole(data: bytes, room: int) -> bytes:
    if len(data) > room:
        raise Refused(TOO_LARGE)
    return data


def _query(data: bytes, room: int) -> bytes:
    if len(data) > room - (LIMIT - graphql_limits.BODY):
        raise Refused(LONG_QUERY)
    return data


def _check_json(body: bytes) -> None:
    if len(body) > span_limits.SMALL and sum(map(body.count, SIGNS)) > MOST_SIGNS:
        raise Refused(TOO_DENSE)


def _check_spans(body: bytes, is_json: bool) -> None:
    if is_json:
        _check_json(body)
    if span_limits.too_many(body, is_json):
        raise Refused(TOO_MANY)


def _counted(
    receive: Receive, take: Callable[[bytes, int], bytes], end: Callable[[bytes], None] | None = None
) -> Receive:
    """``receive`` with each part as ``take`` gives it for the room that is left; ``end`` looks at the whole."""
    total = 0
    parts: list[bytes] = []

    async def counted() -> Any:
        nonlocal total
        message = await receive()
        if message["type"] == "http.request":
            data = take(message.get("body", b""), LIMIT - total)
            total += len(data)
            message = {**message, "body": data}
            if end is not None:
                parts.append(data)
                if not message.get("more_body", False):
                    end(b"".join(parts))
                    parts.clear()
        return message

    return counted
