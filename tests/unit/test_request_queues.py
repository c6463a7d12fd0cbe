"""The queues of MLflow's server (trackbed_mlflow/request_queues.py): who waits behind whom, for how long, and what then."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import abandoned_requests, download_addresses, request_queues, router
from trackbed_mlflow.fast_path import json_requests
from trackbed_mlflow.request_queues import Busy, ConcurrencyLimiter, Queues

from tests.conftest import PATIENCE

API = "/api/2.0/mlflow/"
EMPTY = {"type": "http.request", "body": b"{}", "more_body": False}


def limiter(at_once: int = 1, most: int = 9, long: float = 60.0, queue: int = 9, seconds: float = 60.0) -> Any:
    return ConcurrencyLimiter(at_once, most, long, queue, seconds)


def scene(steps: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(steps, PATIENCE))


async def settled() -> None:
    """Whatever can go on without a timer has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_those_that_wait_go_in_order() -> None:
    async def steps() -> None:
        queue, began, ends = limiter(at_once=2), list[int](), list[Callable[[], None]]()

        async def one(number: int) -> None:
            ends.append(await queue.take())
            began.append(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(4)]
        await settled()
        assert began == [0, 1]
        ends[1]()
        ends[1]()  # a turn ends once
        await settled()
        assert began == [0, 1, 2]
        ends[0]()
        await asyncio.gather(*tasks)
        assert began == [0, 1, 2, 3]
        for end in ends:
            end()
        assert queue.free == 2 and queue.places == 9

    scene(steps())


def test_a_long_request_makes_room_but_never_for_more_than_the_most() -> None:
    async def steps() -> None:
        queue = limiter(long=0.001, most=3)
        ends = [await queue.take() for _ in range(3)]
        last = asyncio.ensure_future(queue.take())
        while queue.free < 1:  # the third made room as well, and there is no place for a fourth
            await asyncio.sleep(0.001)
        await settled()
        assert not last.done()
        ends[0]()
        for end in (*ends, await last):
            end()
        assert queue.free == 1 and queue.places == 3

    scene(steps())


def test_what_computes_makes_room_only_while_the_database_works() -> None:
    async def steps() -> None:
        looked, works = asyncio.Event(), False

        def makes_room() -> bool:
            looked.set()
            return works

        queue = limiter(long=0.001)
        await queue.take(makes_room)
        last = asyncio.ensure_future(queue.take())
        for _ in range(3):
            looked.clear()
            await looked.wait()
        assert not last.done()
        works = True
        await last

    scene(steps())


def test_the_database_works_while_a_statement_is_executed() -> None:
    client: Any = SimpleNamespace(connection=None)
    token = abandoned_requests.current.set(client)
    try:
        working = request_queues.in_database()
        assert not working()
        client.connection = object()
        assert working()
    finally:
        abandoned_requests.current.reset(token)
    assert not request_queues.in_database()()


def test_a_full_queue_says_so_at_once() -> None:
    async def steps() -> None:
        queue = limiter(queue=1)
        end = await queue.take()
        waiting = asyncio.ensure_future(queue.take())
        await settled()
        with pytest.raises(Busy, match="too many"):
            await queue.take()
        end()
        (await waiting)()
        assert queue.free == 1 and not queue.waiting

    scene(steps())


def test_who_has_gone_takes_no_place_of_those_who_wait() -> None:
    async def steps() -> None:
        queue, left, ends = limiter(queue=2), list[str](), list[Callable[[], None]]()

        async def one(name: str, client: Any) -> None:
            abandoned_requests.current.set(client)
            try:
                ends.append(await queue.take())
            except Busy:
                left.append(name)

        end = await queue.take()
        gone = SimpleNamespace(gone=False, connection=None)
        tasks = [asyncio.ensure_future(one(name, client)) for name, client in (("gone", gone), ("stays", None))]
        await settled()
        with pytest.raises(Busy, match="too many"):
            await queue.take()
        gone.gone = True
        tasks.append(asyncio.ensure_future(one("new", None)))
        await settled()
        assert left == ["gone"] and len(queue.waiting) == 2
        end()
        await settled()
        ends[0]()
        await asyncio.gather(*tasks)
        ends[1]()
        assert len(ends) == 2 and queue.free == 1 and queue.places == 9

    scene(steps())


def test_nobody_waits_for_longer_than_the_limit() -> None:
    async def steps() -> None:
        queue = limiter(seconds=0.001)
        end = await queue.take()
        with pytest.raises(Busy, match="in time"):
            await queue.take()
        assert not queue.waiting
        end()
        assert queue.free == 1 and queue.places == 9

    scene(steps())


def test_who_no_longer_waits_gives_the_turn_on() -> None:
    async def steps() -> None:
        queue = limiter()
        end = await queue.take()
        left, given, last = (asyncio.ensure_future(queue.take()) for _ in range(3))
        await settled()
        left.cancel()
        end()
        given.cancel()  # it has the turn, and goes before it can take it
        (await last)()
        assert queue.free == 1 and not queue.waiting

    scene(steps())


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (API + "runs/search", "POST"),
        ("/ajax-" + API[1:] + "runs/search", "POST"),
        ("/ajax-api/2.0/mlflow/experiments/search", "POST"),
        ("/ajax-api/2.0/mlflow/experiments/search-datasets", "POST"),
        (API + "metrics/get-history", "GET"),
        (API + "metrics/get-history-bulk-interval", "GET"),
        ("/ajax-api/2.0/mlflow/metrics/get-history-bulk", "GET"),
        (API + "registered-models/get-latest-versions", "POST"),
        (API + "logged-models/search", "POST"),
        (API + "traces", "GET"),
        ("/api/3.0/mlflow/traces/search", "POST"),
        ("/api/3.0/mlflow/traces/batchGetInfos", "POST"),
        ("/api/3.0/mlflow/traces/metrics", "POST"),
        ("/api/3.0/mlflow/datasets/d-1/records", "GET"),
        ("/api/3.0/mlflow/scorers/list", "GET"),
        ("/graphql", "POST"),
    ],
)
def test_what_walks_many_rows_computes(path: str, method: str) -> None:
    assert request_queues.computes(path, method)


@pytest.mark.parametrize(
    ("path", "method"),
    [
        *((API + f"runs/{what}", "POST") for what in ("create", "update", "log-metric", "log-batch", "log-parameter")),
        *((API + f"runs/{what}", "POST") for what in ("set-tag", "delete-tag", "log-inputs", "log-model", "outputs")),
        (API + "runs/get", "GET"),
        (API + "experiments/get-by-name", "GET"),
        (API + "model-versions/create", "POST"),
        ("/api/3.0/mlflow/traces", "POST"),
        ("/api/3.0/mlflow/datasets/d-1/records", "POST"),
        ("/v1/traces", "POST"),
        ("/health", "GET"),
        ("/", "GET"),
    ],
)
def test_what_logs_or_reads_one_thing_does_not(path: str, method: str) -> None:
    assert not request_queues.computes(path, method)


def test_the_look_whether_the_server_is_well_waits_for_no_search() -> None:
    path = API + "experiments/search"
    assert not request_queues.computes(path, "GET", b"max_results=1")
    assert request_queues.computes(path, "GET", b"max_results=1000")


@pytest.mark.parametrize(
    ("path", "lists"),
    [
        (API + "artifacts/list", True),
        ("/ajax-api/2.0/mlflow/artifacts/list", True),
        ("/api/2.0/mlflow-artifacts/artifacts", True),
        (API + "logged-models/m-1/artifacts/directories", True),
        ("/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/a.txt", False),
        ("/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files", False),
        ("/get-artifact", False),
    ],
)
def test_lists_have_a_queue_of_their_own(path: str, lists: bool) -> None:
    assert bool(request_queues.LISTS.fullmatch(path)) == lists


def application(queues: Queues) -> tuple[Any, list[str]]:
    """A router whose every way answers 200, and what went which way."""
    taken: list[str] = []

    def way(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            body = (await receive())["body"]
            taken.append(f"{name} {scope['path']}")
            await send({"status": 200, "body": body})

        return app

    def wsgi(environ: dict[str, Any], start: Any) -> list[bytes]:
        taken.append(f"fast {environ['path']}")
        start("200 OK", [])
        return [b"{}"]

    fast = json_requests.WSGIBridge(wsgi, lambda scope, body: {"path": scope["path"]}, queues)
    paths = frozenset({API + "runs/search", API + "runs/log-metric"})
    return router.Router(way("full"), way("store"), queues, fast, paths), taken


async def asked(app: Any, path: str, method: str = "POST") -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return EMPTY

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "method": method, "query_string": b""}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("path", "method", "queue"),
    [
        (API + "runs/search", "POST", "computing"),
        ("/api/3.0/mlflow/traces/search", "POST", "computing"),
        ("/graphql", "POST", "computing"),
        (API + "artifacts/list", "GET", "lists"),
        (API + "runs/log-metric", "POST", "logging"),
    ],
)
def test_each_queue_refuses_for_itself_in_words_after_which_clients_come_again(
    path: str, method: str, queue: str
) -> None:
    async def steps() -> None:
        queues = Queues()
        setattr(queues, queue, limiter(queue=0))
        app, taken = application(queues)
        end = await getattr(queues, queue).take()
        start, body = await asked(app, path, method)
        headers = dict(start["headers"])
        assert start["status"] == 503 and int(headers[b"retry-after"]) > 0
        assert json.loads(body["body"])["error_code"] == "TEMPORARILY_UNAVAILABLE"
        for other, way in ((API + "runs/log-metric", "POST"), (API + "artifacts/list", "GET"), ("/version", "GET")):
            if other != path:  # the others go on
                assert (await asked(app, other, way))[0]["status"] == 200
        assert not any(path in entry for entry in taken)
        end()
        assert (await asked(app, path, method))[0]["status"] == 200
        assert getattr(queues, queue).free == 1

    scene(steps())


def test_uploads_and_downloads_wait_for_no_list() -> None:
    async def steps() -> None:
        queues = Queues()
        queues.lists = limiter(queue=0)
        app, taken = application(queues)
        await queues.lists.take()
        for method in ("GET", "PUT"):
            path = "/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/a.txt"
            assert (await asked(app, path, method))[0]["status"] == 200
        assert [entry.split()[0] for entry in taken] == ["store", "store"]

    scene(steps())


def test_logging_has_a_thread_whatever_computes() -> None:
    queues = Queues()
    assert queues.logging.places + queues.computing.places <= json_requests.THREADS


def test_threads_change_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", given.append)
    request_queues.share_the_lock()
    assert given == [request_queues.SWITCH_SECONDS]


@pytest.mark.parametrize(
    ("path", "method"),
    [(API + "artifacts/list", "GET"), ("/graphql", "POST"), ("/api/3.0/mlflow/traces/search", "POST")],
)
def test_who_reads_an_answer_slowly_takes_nobodys_turn(path: str, method: str) -> None:
    async def steps() -> None:
        queues = Queues()
        queues.lists, queues.computing = limiter(most=1), limiter(most=1)
        app, _ = application(queues)
        begun, read = asyncio.Event(), asyncio.Event()

        async def receive() -> Any:
            return EMPTY

        async def send(_: Any) -> None:
            begun.set()
            await read.wait()

        slow = asyncio.ensure_future(
            app({"type": "http", "path": path, "method": method, "query_string": b""}, receive, send)
        )
        await begun.wait()
        assert (await asked(app, path, method))[0]["status"] == 200
        read.set()
        await slow
        assert queues.lists.free == queues.computing.free == 1

    scene(steps())


def test_a_question_for_the_headers_alone_costs_the_same() -> None:
    async def steps() -> None:
        queues = Queues()
        queues.lists = queues.computing = limiter(queue=0)
        app, _ = application(queues)
        await queues.lists.take()
        for path in (API + "artifacts/list", API + "traces", API + "metrics/get-history"):
            assert (await asked(app, path, "HEAD"))[0]["status"] == 503

    scene(steps())


def test_signing_many_addresses_waits_as_lists_do() -> None:
    async def steps() -> None:
        queues = Queues()
        app, taken = application(queues)
        queues.lists = limiter(queue=0)
        await queues.lists.take()
        assert (await asked(app, download_addresses.PATH))[0]["status"] == 503
        queues.lists = limiter()
        assert (await asked(app, download_addresses.PATH))[0]["status"] == 200
        assert taken == [f"store {download_addresses.PATH}"]

    scene(steps())


@pytest.mark.parametrize("repeated", ["search", "list/", "/mlflow/search", "get-history", "a/records"])
def test_a_long_address_is_judged_in_a_moment(repeated: str) -> None:
    """In a process of its own: a pattern that looks again from each letter would be at it for hours."""
    code = (
        "from trackbed_mlflow import request_queues, artifact_pool\n"
        f"path = '/api/3.0/mlflow/mcp-servers/' + {repeated!r} * 200_000 + '!'\n"
        "assert not request_queues.computes(path, 'GET') and not request_queues.LISTS.fullmatch(path)\n"
        "artifact_pool.waits_for_store(path), artifact_pool.TRANSFER.match(path)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": os.pathsep.join(sys.path)}, timeout=PATIENCE, check=True
    )
