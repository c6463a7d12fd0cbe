"""Requests whose client has gone (trackbed_mlflow/abandoned_requests.py): not begun, and stopped in the database."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import abandoned_requests, router
from trackbed_mlflow.fast_path import json_requests
from trackbed_mlflow.request_queues import ConcurrencyLimiter, Queues

WHOLE = {"type": "http.request", "body": b"{}", "more_body": False}
LEFT = {"type": "http.disconnect"}


class Connection:
    """A client that sends its request and leaves when told."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages, self.leaves = list(messages or (WHOLE,)), asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self.messages:
            return self.messages.pop(0)
        await self.leaves.wait()
        return LEFT


def test_a_client_that_leaves_while_its_request_is_at_work_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_requests, "WATCH_SECONDS", 0.01)

    async def scene() -> None:
        connection = Connection()
        client = abandoned_requests.Client(connection.receive)
        assert await client.receive() == WHOLE
        await asyncio.sleep(0.05)
        assert not client.gone
        connection.leaves.set()
        await asyncio.sleep(0.05)
        assert client.gone
        assert await client.receive() == LEFT  # the application hears of it as well
        client.end()

    asyncio.run(scene())


def test_a_quick_request_has_no_listener() -> None:
    async def scene() -> None:
        client = abandoned_requests.Client(Connection().receive)
        await client.receive()
        client.end()
        await asyncio.sleep(2 * abandoned_requests.WATCH_SECONDS)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scene())


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the module gives SQLAlchemy to call."""
    result: dict[str, Any] = {}
    module: Any = ModuleType("sqlalchemy")
    module.event = SimpleNamespace(listen=lambda engine, name, function: result.__setitem__(name, function))
    monkeypatch.setitem(sys.modules, "sqlalchemy", module)
    abandoned_requests.in_database([SimpleNamespace(dialect=SimpleNamespace(driver="psycopg2"))])
    return result


class Statement:
    """A cursor whose statement waits until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.connection = self

    def cancel(self) -> None:
        self.cancelled.set()


def test_a_statement_that_waits_is_cancelled_when_its_client_has_gone(
    monkeypatch: pytest.MonkeyPatch, hooks: dict[str, Any]
) -> None:
    monkeypatch.setattr(abandoned_requests, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(abandoned_requests, "LEFT_SECONDS", 0.1)

    async def scene() -> None:
        connection, statement = Connection(), Statement()
        client = abandoned_requests.Client(connection.receive)
        abandoned_requests.current.set(client)
        await client.receive()
        hooks["before_cursor_execute"](None, statement, "SELECT", None, None, False)
        connection.leaves.set()
        assert await asyncio.to_thread(statement.cancelled.wait, 5)
        hooks["handle_error"](None)
        assert client.connection is None
        with pytest.raises(abandoned_requests.ClientGone):
            hooks["before_cursor_execute"](None, statement, "SELECT", None, None, False)
        client.end()

    asyncio.run(scene())


def test_what_is_not_a_statement_is_not_cancelled(hooks: dict[str, Any]) -> None:
    """A commit, and above all the next request's statement on the same connection."""

    async def scene() -> None:
        statement = Statement()
        client = abandoned_requests.Client(Connection().receive)
        abandoned_requests.current.set(client)
        hooks["before_cursor_execute"](None, statement, "SELECT", None, None, False)
        hooks["after_cursor_execute"](None)
        client.cancel()
        assert not statement.cancelled.is_set()
        client.end()

    asyncio.run(scene())


def test_a_request_that_waited_for_a_thread_is_not_run_for_nobody() -> None:
    runs: list[str] = []

    def wsgi(environ: dict[str, Any], start: Any) -> list[bytes]:
        runs.append("run")
        start("200 OK", [])
        return [b"{}"]

    async def scene() -> None:
        client = abandoned_requests.Client(Connection(LEFT).receive)
        abandoned_requests.current.set(client)
        await client.receive()
        said: list[str] = []
        assert abandoned_requests.wanted_only(wsgi)({}, lambda status, headers: said.append(status)) == []
        assert said[0].startswith("499") and not runs
        with abandoned_requests.WantedOnly(1) as threads, pytest.raises(asyncio.CancelledError):
            threads.submit(runs.append, "run").result()
        client.end()
        assert not runs

    asyncio.run(scene())


def test_what_waits_for_its_turn_is_dropped_when_its_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_requests, "WATCH_SECONDS", 0.01)
    runs: list[str] = []

    def wsgi(environ: dict[str, Any], start: Any) -> list[bytes]:
        runs.append(environ["path"])
        start("200 OK", [])
        return [b"{}"]

    async def scene() -> None:
        queues = Queues()
        queues.logging = ConcurrencyLimiter(at_once=1, most=1, long=60, queue=2, seconds=60)
        bridge = json_requests.WSGIBridge(wsgi, lambda scope, body: {"path": scope["path"]}, queues)
        app = router.Router(bridge, bridge, queues, bridge, frozenset({"/gone", "/there"}))
        end = await queues.logging.take()
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        gone, existing = Connection(), Connection()
        tasks = [
            asyncio.ensure_future(app({"type": "http", "path": path}, connection.receive, send))
            for path, connection in (("/gone", gone), ("/there", existing))
        ]
        await asyncio.sleep(0.1)
        gone.leaves.set()
        await asyncio.sleep(0.1)
        end()
        await asyncio.gather(*tasks)
        assert runs == ["/there"] and len(sent) == 2 and queues.logging.free == 1

    asyncio.run(scene())
