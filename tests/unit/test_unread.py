"""Answers before the body was read (trackbed_mlflow/edge/unread_bodies.py): the rest is read, bounded, before the connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from trackbed_mlflow.edge import middleware, unread_bodies

from tests.unit import asgi

HEADERS: dict[str, dict[str, str]] = {"length": {"content_length": "9"}, "chunked": {"transfer_encoding": "chunked"}}


async def early(scope: Any, receive: Any, send: Any) -> None:
    """Refuses without a look at the body."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


class Client:
    """Sends a body in parts; then it is silent, or its end is known."""

    def __init__(self, *parts: bytes, more: bool = False) -> None:
        self.parts, self.more = list(parts), more
        self.events: list[str] = []
        self.headers: list[tuple[bytes, bytes]] = []

    async def receive(self) -> MutableMapping[str, Any]:
        if not self.parts:
            await asyncio.sleep(60)
        part = self.parts.pop(0)
        self.events.append(f"read {len(part)}")
        return {"type": "http.request", "body": part, "more_body": self.more or bool(self.parts)}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.headers = message["headers"]
            self.events.append("start")
        else:
            self.events.append(f"{message['body'].decode()}{'...' if message.get('more_body') else '.'}")

    def ask(self, app: Any, method: str = "POST", **headers: str) -> list[str]:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": "/", "headers": named, "query_string": b""}

        async def whole() -> None:
            await unread_bodies.drained(app)(scope, self.receive, self.send)

        asyncio.run(whole())
        return self.events


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FIRST_BYTES": 10, "FIRST_SECONDS": 20.0, "LAST_BYTES": 30}.items():
        monkeypatch.setattr(unread_bodies, name, value)


@pytest.mark.parametrize("kind", HEADERS)
def test_a_small_body_is_read_before_the_answer_and_the_connection_stays(kind: str) -> None:
    client = Client(b"12345", b"6789")
    assert client.ask(early, **HEADERS[kind]) == ["read 5", "read 4", "start", "no."]
    assert unread_bodies.CLOSE not in client.headers


def test_of_a_large_one_the_rest_is_read_after_the_answer() -> None:
    client = Client(*[b"1234567890"] * 3)
    assert client.ask(early, content_length="30") == ["read 10", "start", "no...", "read 10", "read 10", "."]
    assert unread_bodies.CLOSE in client.headers


def test_no_client_sends_for_ever() -> None:
    assert Client(*[b"1234567890"] * 9).ask(early, content_length="90") == [
        "read 10",
        "start",
        "no...",
        "read 10",
        "read 10",
        "read 10",
        ".",
    ]


@pytest.mark.parametrize("kind", HEADERS)
def test_a_client_that_falls_silent_gets_its_answer_too(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    for name in ("FIRST_SECONDS", "LAST_SECONDS", "QUIET_SECONDS"):
        monkeypatch.setattr(unread_bodies, name, 0.05)
    client = Client(b"1", more=True)
    assert client.ask(early, **HEADERS[kind])[-3:] == ["start", "no...", "."] and unread_bodies.CLOSE in client.headers


def test_who_waits_for_leave_to_send_gets_the_answer_alone() -> None:
    client = Client(b"123")
    assert client.ask(early, content_length="3", expect="100-continue") == ["start", "no...", "."]
    assert unread_bodies.CLOSE in client.headers


def test_what_reads_its_body_is_left_alone() -> None:
    inner = asgi.Inner()
    client = Client(b"123", b"4")
    assert client.ask(inner, content_length="4") == ["read 3", "read 1", "start", "1234."]
    for headers in ({}, {"content_length": "0"}):
        assert Client(b"").ask(early, "GET", **headers) == ["start", "no."]


@pytest.mark.parametrize("path", ["/nothing", "/api/2.0/mlflow/experiments/search"])
def test_the_whole_edge_is_behind_it(path: str) -> None:
    answer = asgi.ask(middleware.guarded(asgi.Inner(), {}), path, "POST", body=[b"1"] * 20, content_length=str(1 << 40))
    assert answer.status in (404, 413) and b"message" in answer.body and answer.headers["connection"] == "close"
