"""How many spans a request brings. MLflow turns each into objects while all other requests of the worker wait.

A few KB of gzip are a million spans: minutes of work, at whose end the worker is killed with what it had in hand.
"""

from __future__ import annotations

import re

SPANS = 20_000  # of one request; OpenTelemetry's exporters send 512, MLflow's a trace
FIELDS = 1_000_000  # of all of them, attributes and their values too; two bytes each at least
OBJECTS = 20 * SPANS  # of JSON; 10 us each in MLflow, and a span without an id is one too
SMALL = 128 << 10  # bytes that cannot hold enough to matter

# messages of OTLP (opentelemetry/proto/trace/v1/trace.proto): field number -> what it holds
VALUE: dict[int, object] = {}
KEY_VALUE: dict[int, object] = {2: VALUE}
LIST, PAIRS = {1: VALUE}, {1: KEY_VALUE}
VALUE.update({5: LIST, 6: PAIRS})
EVENT, LINK = {3: KEY_VALUE}, {4: KEY_VALUE}
SPAN: dict[int, object] = {9: KEY_VALUE, 11: EVENT, 13: LINK}
SCOPE_SPANS = {1: {3: KEY_VALUE}, 2: SPAN}
REQUEST = {1: {1: {1: KEY_VALUE}, 2: SCOPE_SPANS}}


def too_many(body: bytes, is_json: bool) -> bool:
    if len(body) <= SMALL:
        return False
    if is_json:
        return json_spans(body) > SPANS or json_objects(body, OBJECTS) > OBJECTS
    return not countable(body)


def json_spans(body: bytes) -> int:
    """At least as many as there are."""
    named = body.count(b'"spanId"') + body.count(b'"span_id"')
    if b"\\u00" in body or b"\0" in body:  # a name may be spelled with escapes, or as UTF-16
        named = max(named, body.count(b"{") // 4)
    return named


# whatever begins as a string is one, to its end or the body's: nothing is looked at twice
STRING = re.compile(rb'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)', re.DOTALL)


def json_objects(body: bytes, most: int) -> int:
    """How many there are; strings are only told apart where there may be more than ``most``, and in UTF-8 alone."""
    result = body.count(b"{")
    return STRING.sub(b"", body).count(b"{") if result > most and b"\0" not in body else result


def varint(body: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends. Raises IndexError at the end of the body, ValueError for none."""
    byte = body[at]
    if byte < 128:
        return byte, at + 1
    number, shift = byte & 127, 7
    while shift < 70:
        at += 1
        byte = body[at]
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at + 1
        shift += 7
    raise ValueError("no number")


def countable(body: bytes) -> bool:
    """Whether the spans and fields are few enough; what is no protobuf is left to MLflow, which refuses it."""
    spans = fields = 0
    passed: object = None if len(body) > 2 * FIELDS else SPAN  # what a shorter body holds in its spans is few enough
    waiting: list[tuple[int, int, dict[int, object]]] = [(0, len(body), REQUEST)]  # type: ignore[list-item]
    try:
        while waiting:
            at, end, inside = waiting.pop()
            while at < end:
                fields += 1
                key, at = varint(body, at)
                kind = key & 7
                if kind == 2:
                    length, at = varint(body, at)
                    held = inside.get(key >> 3)
                    if held is SPAN:
                        spans += 1
                    if held is not None and held is not passed and length:
                        waiting.append((at, min(at + length, end), held))  # type: ignore[arg-type]
                    at += length
                elif kind == 0:
                    _, at = varint(body, at)
                elif kind in (1, 5):
                    at += 8 if kind == 1 else 4
                else:
                    return True
                if spans > SPANS or fields > FIELDS:
                    return False
    except (IndexError, ValueError):
        return True
    return True
