"""What waits for the object store (trackbed_mlflow/artifact_pool.py): which requests do, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import MutableMapping
from types import ModuleType
from typing import Any

import pytest
from trackbed_mlflow import artifact_pool, router
from trackbed_mlflow.request_queues import Queues

from tests.conftest import PATIENCE

GET = {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow/artifacts/list",
        "/ajax-api/2.0/mlflow/artifacts/list",
        "/get-artifact",
        "/model-versions/get-artifact",
        "/ajax-api/2.0/mlflow/upload-artifact",
        "/ajax-api/2.0/mlflow/get-trace-artifact",
        "/ajax-api/3.0/mlflow/get-trace-artifact",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/ajax-api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/a.txt",
        "/api/2.0/mlflow-artifacts/mpu/create/1/a",
        "/api/2.0/mlflow-artifacts/presigned/1/a",
        "/api/2.0/mlflow/artifacts/presigned-upload-url",
        "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files",
        "/api/2.0/mlflow/logged-models/m-1/artifacts/directories",
    ],
)
def test_what_asks_for_artifacts_waits_for_the_store(path: str) -> None:
    assert artifact_pool.waits_for_store(path)


@pytest.mark.parametrize(
    "path",
    [
        "/api/2.0/mlflow/runs/log-metric",
        "/api/2.0/mlflow/logged-models/m-1",
        "/graphql",
        "/health",
        "/api/3.0/mlflow/traces/search",
        "/api/3.0/mlflow/traces/get",
        "/",
    ],
)
def test_what_asks_the_database_alone_does_not(path: str) -> None:
    assert not artifact_pool.waits_for_store(path)


def test_archived_traces_lie_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_ARCHIVAL_CONFIG", "x")
    assert artifact_pool.waits_for_store("/api/3.0/mlflow/traces/get")


@pytest.mark.parametrize(
    ("path", "transfer"),
    [
        ("/api/2.0/mlflow-artifacts/artifacts/1/big.bin", True),
        ("/get-artifact", True),
        ("/ajax-api/2.0/mlflow/logged-models/m/artifacts/files", True),
        ("/api/2.0/mlflow-artifacts/mpu/complete/1", True),
        ("/api/2.0/mlflow-artifacts/artifacts", False),
        ("/api/2.0/mlflow/artifacts/list", False),
    ],
)
def test_what_carries_files_has_more_time(path: str, transfer: bool) -> None:
    assert bool(artifact_pool.TRANSFER.match(path)) is transfer


def ask(app: Any, path: str, *messages: dict[str, Any]) -> Any:
    """What an ASGI application sends; after ``messages`` the client stays and waits."""
    incoming, sent = list(messages or (GET,)), []

    async def receive() -> dict[str, Any]:
        if not incoming:
            await asyncio.Event().wait()
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def run() -> list[dict[str, Any]]:
        await app({"type": "http", "path": path}, receive, send)
        return sent

    return run()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more, messages = b"", True, 0
    while more:
        message = await receive()
        body, more, messages = body + message["body"], message["more_body"], messages + 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d %d" % (messages, len(body))})


def test_bodies_and_answers_cross_between_the_loops_in_large_pieces() -> None:
    pieces = [{"type": "http.request", "body": b"x" * (64 << 10), "more_body": n < 63} for n in range(64)]
    sent = asyncio.run(ask(artifact_pool.ArtifactPool(echo), "/x", *pieces))
    assert [message.get("body") for message in sent] == [None, b"4 4194304"]


def test_the_loop_of_the_others_goes_on_while_the_store_hangs() -> None:
    """Also where MLflow asks the disk in the middle of its event loop, as for a folder on a network share."""
    end = threading.Event()

    async def hung(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert end.wait(PATIENCE), "nobody was there to set it"
        await echo(scope, lambda: _done(), send)

    async def scene() -> None:
        pool = artifact_pool.ArtifactPool(hung)
        waiting = asyncio.ensure_future(ask(pool, "/x"))
        await asyncio.sleep(0.1)
        assert pool.waiting == 1
        end.set()
        assert (await waiting)[0]["status"] == 200
        assert pool.waiting == 0

    asyncio.run(scene())


async def _done() -> dict[str, Any]:
    return GET


def test_a_store_that_does_not_answer_is_told_in_mlflows_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_pool, "QUIET_SECONDS", 0.2)
    released = threading.Event()

    async def hung(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.to_thread(released.wait, 20)
        await echo(scope, lambda: _done(), send)

    async def scene() -> tuple[list[dict[str, Any]], int]:
        pool = artifact_pool.ArtifactPool(hung)
        sent = await ask(pool, "/api/2.0/mlflow/artifacts/list")
        released.set()
        await asyncio.sleep(0.2)  # what the thread says now is for nobody
        return sent, pool.waiting

    sent, waiting = asyncio.run(scene())
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"] and waiting == 0
    assert sent[0]["status"] == 503 and (b"retry-after", b"5") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error_code"] == "TEMPORARILY_UNAVAILABLE"


@pytest.mark.parametrize(("status", "given", "after"), [(503, [], b"5"), (503, [b"9"], b"9"), (200, [], None)])
def test_whoever_is_told_to_come_again_is_told_when(status: int, given: list[bytes], after: bytes | None) -> None:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"Retry-After", value) for value in given]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    headers = asyncio.run(ask(artifact_pool.ArtifactPool(refusing), "/x"))[0]["headers"]
    assert [value for name, value in headers if name.lower() == b"retry-after"] == ([after] if after else [])


def test_more_than_may_wait_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_pool, "WAITING", 1)
    begun, released = threading.Event(), threading.Event()

    async def hung(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        begun.set()
        await asyncio.to_thread(released.wait, 20)
        await echo(scope, lambda: _done(), send)

    async def scene() -> list[int]:
        pool = artifact_pool.ArtifactPool(hung)
        first = asyncio.ensure_future(ask(pool, "/x"))
        assert await asyncio.to_thread(begun.wait, 20)
        refused = await ask(pool, "/x")
        released.set()
        return [refused[0]["status"], (await first)[0]["status"]]

    assert asyncio.run(scene()) == [503, 200]


def test_a_slow_client_is_not_one_that_waits_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_pool, "QUIET_SECONDS", 0.1)

    async def scene() -> list[MutableMapping[str, Any]]:
        incoming = [{"type": "http.request", "body": b"a", "more_body": True}, GET]
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.5)
            return incoming.pop(0)

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await artifact_pool.ArtifactPool(echo)({"type": "http", "path": "/x"}, receive, send)
        return sent

    assert asyncio.run(scene())[0]["status"] == 200


@pytest.mark.parametrize(
    ("body", "way"),
    [
        (b'{"query": "query { mlflowGetRun { run { info { runId }}}}"}', "full"),
        (b'{"query": "query { mlflowListArtifacts { files { path }}}"}', "store"),
        (b'{"query": "query { \\u006dlflowListArtifacts { files { path }}}"}', "store"),
    ],
)
def test_the_body_of_a_graphql_request_tells_its_way(body: bytes, way: str) -> None:
    def named(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            message = await receive()
            await send({"way": name, "body": message["body"]})

        return app

    app = router.Router(named("full"), named("store"), Queues())
    sent = asyncio.run(ask(app, "/graphql", {"type": "http.request", "body": body, "more_body": False}))
    assert sent == [{"way": way, "body": body}]


def responses(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> Any:
    module: Any = ModuleType("starlette.responses")
    module.FileResponse = type("FileResponse", (), attributes)
    monkeypatch.setitem(sys.modules, "starlette", ModuleType("starlette"))
    monkeypatch.setitem(sys.modules, "starlette.responses", module)
    return module.FileResponse


@pytest.mark.parametrize(("own", "expected"), [(64 << 10, 1 << 20), (4 << 20, 4 << 20)])
def test_files_leave_in_larger_pieces(monkeypatch: pytest.MonkeyPatch, own: int, expected: int) -> None:
    response = responses(monkeypatch, chunk_size=own)
    artifact_pool.larger_blocks()
    assert response.chunk_size == expected


def test_another_starlette_keeps_its_pieces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    response = responses(monkeypatch)
    artifact_pool.larger_blocks()
    assert not hasattr(response, "chunk_size") and "Starlette's own" in capsys.readouterr().err
