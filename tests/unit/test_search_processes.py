"""Searches in processes of their own (trackbed_mlflow/search_processes): who is asked, what crosses, how they end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from trackbed_mlflow import abandoned_requests, leftovers, router
from trackbed_mlflow.edge import identity
from trackbed_mlflow.request_queues import Queues
from trackbed_mlflow.search_processes import pool, server, wire
from trackbed_mlflow.search_processes.pool import SearchProcesses

from tests.conftest import PATIENCE

SEARCH, LIST = "/api/2.0/mlflow/runs/search", "/api/2.0/mlflow/artifacts/list"
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "https",
    "path": "/api/2.0/mlflow/runs/search/\N{GREEK SMALL LETTER ALPHA} %2F",
    "raw_path": b"/api/2.0/mlflow/runs/search/%CE%B1%20%252F",
    "root_path": "",
    "query_string": b"a=\xff&b=1",
    "headers": [(b"host", b"h"), (b"x-bytes", b"\xe9\xff"), (b"x-bytes", b"")],
    "client": ("10.0.0.1", 4711),
    "server": ("10.0.0.2", 443),
    "state": {},
}
ASKED: list[dict[str, Any]] = [
    {"type": "http.response.start", "status": 207, "headers": [(b"content-type", b"x/y"), (b"set-cookie", b"\xe9")]},
    {"type": "http.response.body", "body": b"one", "more_body": True},
    {"type": "http.response.body", "body": b"", "more_body": False},
]


def scene(steps: Coroutine[Any, Any, Any]) -> None:
    async def whole() -> None:
        await asyncio.wait_for(steps, PATIENCE)
        for _ in range(10):  # connections that were closed have ended
            await asyncio.sleep(0)

    asyncio.run(whole())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


class Caller:
    """A client of the worker: its request is read whole, and it leaves when told."""

    def __init__(self, body: bytes = b"{}") -> None:
        self.body, self.leaves = body, asyncio.Event()
        self.client = abandoned_requests.Client(self.receive)
        self.sent: list[dict[str, Any]] = []
        self.asked = False
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))
        await self.reads.wait()

    async def ask(self, processes: SearchProcesses, kind: str = "computing") -> bool:
        """As the router does."""
        await self.client.receive()
        with processes.pending(kind) as pending:

            async def send(message: Any) -> None:
                pending.end()
                await self.send(message)

            return await processes.answered(pending, dict(SCOPE), self.client, self.body, send)


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path: pytest's own are too long for sockets where there is no /proc."""
    with tempfile.TemporaryDirectory(dir="/tmp") as result:
        yield Path(result)


@pytest.fixture
def worker(folder: Path) -> Iterator[SearchProcesses]:
    """The processes as a worker sees them: there may be two, and none is there."""
    result = SearchProcesses()
    result.enable(2, {"TRACKBED_OWN_TMP": str(folder)})
    assert result.folder
    yield result
    os.close(int(result.base.rpartition("/")[2])) if result.base.startswith("/proc") else None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, worker: SearchProcesses) -> list[tuple[int, int]]:
    """The signals that the worker sends; one, however long a test takes."""
    result: list[tuple[int, int]] = []
    monkeypatch.setattr(pool, "ASK_SECONDS", 3600.0)
    monkeypatch.setattr(os, "kill", lambda *given: result.append(given))
    monkeypatch.setattr(os, "getppid", lambda: worker.arbiter)
    return result


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker waits for a process as long as it takes, and looks often."""
    monkeypatch.setattr(pool, "START_SECONDS", PATIENCE)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.001)


@asynccontextmanager
async def searching(worker: SearchProcesses, app: Any, slot: int = 0) -> AsyncIterator[server.SearchServer]:
    """A search process; ends when its requests have."""
    own = SearchProcesses()
    own.base = worker.base
    result = server.SearchServer(app, lambda: None, grace=PATIENCE)
    running = asyncio.ensure_future(result.serve(own.listen(slot), lambda: own.leave(slot)))
    try:
        yield result
    finally:
        result.stop.set()
        await running


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """Says which request it was."""
    message = await receive()
    said = json.dumps([scope["path"], message["body"].decode(), identity.login.get()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said})


# what crosses


def reader_of(frames: Iterator[bytes] | list[bytes]) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for frame in frames:
        reader.feed_data(frame)
    reader.feed_eof()
    return reader


def test_a_request_crosses_as_it_is() -> None:
    async def steps() -> None:
        frames = wire.request(SCOPE, b"\0body", "ada")
        assert await wire.read_request(reader_of(frames)) == (SCOPE, b"\0body", "ada")
        less: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [],
            "client": None,
            "state": {},
        }
        assert await wire.read_request(reader_of(wire.request(less, b"", ""))) == (less, b"", "")

    scene(steps())


def test_an_answer_crosses_as_it_is_and_in_small_pieces() -> None:
    async def steps() -> None:
        large = {"type": "http.response.body", "body": os.urandom(2 * wire.BLOCK + 7), "more_body": False}
        frames = [frame for message in (*ASKED, large) for frame in wire.answer(message)]
        assert max(map(len, frames)) <= wire.BLOCK + wire.HEAD
        reader = reader_of(frames)
        assert [await wire.read_answer(reader, PATIENCE) for _ in ASKED] == ASKED
        pieces = [await wire.read_answer(reader, PATIENCE) for _ in range(4)]
        assert b"".join(piece["body"] for piece in pieces) == large["body"]
        assert [piece["more_body"] for piece in pieces] == [True, True, True, False]

    scene(steps())


def test_what_is_no_frame_is_refused() -> None:
    async def steps() -> None:
        for frames in ([wire.frame(wire.END, b"")], [wire.frame(wire.REQUEST, b"{}"), wire.frame(wire.PART, b"")]):
            with pytest.raises(ValueError, match="frame"):
                await wire.read_request(reader_of(frames))
        with pytest.raises(ValueError, match="frame"):
            await wire.read_answer(reader_of([wire.frame(b"X", b"")]), PATIENCE)
        for cut in (b"", wire.START, wire.frame(wire.PART, b"abc")[:-1]):
            with pytest.raises(EOFError):
                await wire.read_answer(reader_of([cut]), PATIENCE)

    scene(steps())


def test_a_process_may_search_for_as_long_as_it_says_that_it_runs_or_works() -> None:
    async def steps() -> None:
        reader, looks, enough = asyncio.StreamReader(), 0, wire.LOOKS - 1

        def works() -> bool:
            """At the last moment it says that it runs, next time it works, then it answers, and then it is frozen."""
            nonlocal looks
            looks += 1
            if looks == enough:
                reader.feed_data(wire.frame(wire.ALIVE, b""))
            if looks == 3 * enough:
                reader.feed_data(b"".join(wire.answer(ASKED[0])))
            return looks == 2 * enough

        assert await wire.read_answer(reader, 0.01, works) == ASKED[0] and looks == 3 * enough
        with pytest.raises(TimeoutError):
            await wire.read_answer(reader, 0.01, works)
        assert looks == 3 * enough + wire.LOOKS

    scene(steps())


# a worker and its processes


def test_a_process_answers_for_the_worker_with_the_requests_own_login(worker: SearchProcesses) -> None:
    async def steps() -> None:
        identity.login.set("ada")
        async with searching(worker, plain):
            for body in (b"{}", b""):
                caller = Caller(body)
                assert await caller.ask(worker)
                start, part, end = caller.sent
                assert start["status"] == 200 and end == {"type": "http.response.body", "body": b"", "more_body": False}
                assert json.loads(part["body"]) == [SCOPE["path"], body.decode(), "ada"]
        assert worker.outstanding == [0, 0] and not worker.kinds.total() and not worker.working

    scene(steps())


def test_each_message_of_an_answer_comes_as_it_was_sent(worker: SearchProcesses) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in ASKED:
            await send(message)

    async def steps() -> None:
        async with searching(worker, app):
            caller = Caller()
            assert await caller.ask(worker)
            assert caller.sent == ASKED

    scene(steps())


def test_without_processes_a_worker_searches_by_itself(asked: list[Any]) -> None:
    async def steps() -> None:
        processes = SearchProcesses()
        with processes.pending("computing"), processes.pending("computing"):
            assert not await Caller().ask(processes)
        assert not asked

    scene(steps())


def test_who_has_gone_is_not_handed_on(worker: SearchProcesses) -> None:
    async def steps() -> None:
        async with searching(worker, plain):
            caller = Caller()
            caller.client.gone = True
            assert not await caller.ask(worker) and not caller.sent

    scene(steps())


def test_a_second_search_asks_for_a_process_and_no_third_one_does_at_once(
    worker: SearchProcesses, asked: list[Any]
) -> None:
    async def steps() -> None:
        assert not await Caller().ask(worker) and not asked, "one search needs no process"
        with worker.pending("computing"):
            assert not await Caller().ask(worker)
            assert asked == [(worker.arbiter, signal.SIGTTIN)]
            assert not await Caller().ask(worker)
            assert len(asked) == 1
            worker.requested_at -= pool.ASK_SECONDS
            assert not await Caller().ask(worker)
            assert len(asked) == 2

    scene(steps())


def test_a_worker_whose_first_process_is_gone_asks_no_stranger(
    worker: SearchProcesses, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 1)

    async def steps() -> None:
        with worker.pending("computing"):
            assert not await Caller().ask(worker) and not asked

    scene(steps())


@pytest.mark.usefixtures("patient")
def test_what_would_wait_for_its_turn_waits_for_the_process_that_begins(
    worker: SearchProcesses, asked: list[Any]
) -> None:
    async def steps() -> None:
        caller = Caller()
        with worker.pending("computing"), worker.pending("computing"):
            asking = asyncio.ensure_future(caller.ask(worker))
            await until(lambda: asked)
            async with searching(worker, plain):
                assert await asking and caller.sent[0]["status"] == 200

    scene(steps())


def test_nobody_waits_again_for_a_process_that_did_not_begin(
    worker: SearchProcesses, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "START_SECONDS", 0.002)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.001)

    async def steps() -> None:
        with worker.pending("computing"), worker.pending("computing"):
            assert not await Caller().ask(worker)
            monkeypatch.setattr(pool, "LOOK_SECONDS", 3600.0)
            assert not await Caller().ask(worker)
            async with searching(worker, plain):  # it began after all
                assert await Caller().ask(worker)

    scene(steps())


@pytest.mark.usefixtures("patient")
def test_a_client_that_leaves_waits_for_no_process(
    worker: SearchProcesses, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abandoned_requests, "WATCH_SECONDS", 0.001)

    async def steps() -> None:
        caller = Caller()
        with worker.pending("computing"), worker.pending("computing"):
            asking = asyncio.ensure_future(caller.ask(worker))
            await until(lambda: asked)
            caller.leaves.set()
            assert not await asking and not caller.sent

    scene(steps())


def test_requests_go_where_the_fewest_are_and_ask_for_another_process(
    worker: SearchProcesses, asked: list[Any]
) -> None:
    async def steps() -> None:
        begun: list[int] = []
        go_on = asyncio.Event()

        def app(slot: int) -> Any:
            async def run(scope: Any, receive: Any, send: Any) -> None:
                begun.append(slot)
                await go_on.wait()
                await plain(scope, receive, send)

            return run

        async with searching(worker, app(0)):
            asking = [asyncio.ensure_future(Caller().ask(worker)) for _ in range(pool.AT_ONCE)]
            await until(lambda: len(begun) == pool.AT_ONCE)
            assert not asked, "as many as one process answers"
            asking.append(asyncio.ensure_future(Caller().ask(worker)))
            await until(lambda: asked)
            async with searching(worker, app(1), slot=1):
                asking += [asyncio.ensure_future(Caller().ask(worker)) for _ in range(3)]
                await until(lambda: len(begun) == 6)
                assert begun == [0, 0, 0, 1, 1, 1] and len(asked) == 1
                go_on.set()
                assert all(await asyncio.gather(*asking))

    scene(steps())


def test_too_many_of_one_kind_are_told_to_come_again_and_the_other_kind_goes_on(
    worker: SearchProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def steps() -> None:
        worker.kinds["lists"] = pool.OUTSTANDING
        async with searching(worker, plain):
            caller = Caller()
            assert await caller.ask(worker, "lists")
            assert caller.sent[0]["status"] == 503 and (b"retry-after", b"5") in caller.sent[0]["headers"]
            caller = Caller()
            assert await caller.ask(worker, "computing") and caller.sent[0]["status"] == 200

    scene(steps())


def test_who_reads_an_answer_slowly_is_nobodys_load(worker: SearchProcesses) -> None:
    async def steps() -> None:
        async with searching(worker, plain):
            slow = Caller()
            slow.reads.clear()
            asking = asyncio.ensure_future(slow.ask(worker))
            await until(lambda: slow.sent)
            assert (worker.outstanding, worker.kinds.total(), worker.working) == ([0, 0], 0, 0)
            slow.reads.set()
            assert await asking

    scene(steps())


def test_a_process_that_falls_is_an_answer_after_which_clients_come_again(
    worker: SearchProcesses, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fallen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        writer.close()

    async def steps() -> None:
        async with await asyncio.start_unix_server(fallen, worker.path(0)):
            caller = Caller()
            assert await caller.ask(worker)
            start, body = caller.sent
            assert start["status"] == 503 and json.loads(body["body"])["error_code"] == "TEMPORARILY_UNAVAILABLE"
        assert pool.PROCESS_ENDED in capsys.readouterr().err and worker.outstanding == [0, 0]

    scene(steps())


@pytest.mark.parametrize("size", [2, 1 << 23])
def test_a_frozen_process_is_an_answer_and_is_left_alone(
    worker: SearchProcesses, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    """The kernel takes connections and some of the request for a process that is stopped."""
    monkeypatch.setattr(pool, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(pool, "processor_time", lambda pid: 7)

    async def steps() -> None:
        with socket.socket(socket.AF_UNIX) as frozen:
            frozen.bind(worker.path(0))
            frozen.listen()
            caller = Caller(b"x" * size)
            assert await caller.ask(worker)
            start, body = caller.sent
            assert start["status"] == 503 and (b"retry-after", b"5") in start["headers"]
            assert json.loads(body["body"])["error_code"] == "TEMPORARILY_UNAVAILABLE"
            assert pool.PROCESS_SILENT in capsys.readouterr().err and worker.outstanding == [0, 0]
            assert not await Caller().ask(worker), "the worker searches by itself"
        monkeypatch.setattr(pool, "QUIET_SECONDS", PATIENCE)
        async with searching(worker, plain, 1):
            assert await Caller().ask(worker), "another process helps"
        worker.avoid_until[0] = time.monotonic()
        async with searching(worker, plain):
            assert await Caller().ask(worker), "gunicorn has ended it, and there is a new one"

    scene(steps())


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: how Linux tells of the other end")
def test_a_process_in_one_long_call_is_not_frozen(worker: SearchProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else of it runs meanwhile, but it uses the processor."""
    seen = list[int]()

    def processor_time(pid: int) -> int:
        seen.append(pid)
        return min(len(seen), 20)

    monkeypatch.setattr(pool, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(pool, "processor_time", processor_time)

    async def steps() -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(worker.path(0))
            silent.listen()
            caller = Caller()
            assert await caller.ask(worker) and caller.sent[0]["status"] == 503
        assert seen == [os.getpid()] * (20 + wire.LOOKS)

    scene(steps())


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: what Linux tells of a process")
def test_the_processor_time_of_a_process() -> None:
    before = pool.processor_time(os.getpid())
    assert before is not None and pool.processor_time(0) is None
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert (pool.processor_time(os.getpid()) or 0) > before


def test_a_process_says_that_it_runs_as_long_as_it_works(
    worker: SearchProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ALIVE_SECONDS", 0.001)

    async def steps() -> None:
        go_on = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await go_on.wait()
            await plain(scope, receive, send)

        async with searching(worker, slow) as one:
            reader, writer = await asyncio.open_unix_connection(worker.path(0))
            writer.writelines(wire.request(SCOPE, b"{}", "ada"))
            for _ in range(3):
                assert await wire.read(reader) == (wire.ALIVE, b"")
            one.stop.set()  # also while it ends
            await until(lambda: not os.path.exists(worker.path(0)))
            for _ in range(3):
                assert await wire.read(reader) == (wire.ALIVE, b"")
            go_on.set()
            assert (await wire.read_answer(reader, PATIENCE))["status"] == 200
            writer.close()

    scene(steps())


def test_an_answer_that_is_cut_off_is_not_completed(worker: SearchProcesses) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await wire.read_request(reader)
        writer.writelines(frame for message in ASKED[:2] for frame in wire.answer(message))
        writer.close()

    async def steps() -> None:
        async with await asyncio.start_unix_server(cut, worker.path(0)):
            caller = Caller()
            assert await caller.ask(worker)
            assert caller.sent == ASKED[:2]  # the server then ends its client's connection

    scene(steps())


def test_the_process_hears_of_a_client_that_leaves(worker: SearchProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_requests, "WATCH_SECONDS", 0.001)

    async def steps() -> None:
        heard: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            heard.append("begun")
            heard.append(await receive())
            await plain(scope, receive, send)  # to nobody: no error

        async with searching(worker, app):
            caller = Caller()
            asking = asyncio.ensure_future(caller.ask(worker))
            await until(lambda: heard)
            caller.leaves.set()
            assert await asking and not caller.sent
            await until(lambda: len(heard) == 2)
            assert heard[1] == {"type": "http.disconnect"} and worker.outstanding == [0, 0]

    scene(steps())


def test_an_error_of_the_application_is_answered_as_uvicorn_does(
    worker: SearchProcesses, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("why")

    async def steps() -> None:
        async with searching(worker, app):
            caller = Caller()
            assert await caller.ask(worker)
            start, body, _ = caller.sent
            assert start["status"] == 500 and body["body"] == b"Internal Server Error"
        assert "LookupError: why" in caplog.text

    scene(steps())


def test_a_process_that_searches_asks_no_other_one(worker: SearchProcesses, asked: list[Any]) -> None:
    async def steps() -> None:
        async with searching(worker, plain, slot=1):
            own = SearchProcesses()
            own.__dict__.update(worker.__dict__)  # as a forked process has it
            own.listen(0).close()
            with own.pending("computing"), own.pending("computing"), own.pending("computing"):
                caller = Caller()
                assert not await caller.ask(own) and not caller.sent and not asked

    scene(steps())


# one process


def test_a_process_ends_when_nobody_has_asked_for_a_while(
    worker: SearchProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.001)

    async def steps() -> None:
        alive: list[int] = []
        one = server.SearchServer(plain, lambda: alive.append(1), grace=PATIENCE)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await go_on.wait()
            await plain(scope, receive, send)

        one.app = slow
        running = asyncio.ensure_future(one.serve(SearchProcesses.listen(same(worker), 0), lambda: worker.leave(0)))
        asking = asyncio.ensure_future(Caller().ask(worker))
        await begun.wait()
        one.last_request -= 2 * server.IDLE_SECONDS
        count = len(alive)
        await until(lambda: len(alive) > count + 1)
        assert not running.done(), "it is at work"
        go_on.set()
        assert await asking and os.path.exists(worker.path(0))
        one.last_request -= 2 * server.IDLE_SECONDS
        await running
        assert not os.path.exists(worker.path(0))
        assert not await Caller().ask(worker)

    scene(steps())


def same(worker: SearchProcesses) -> SearchProcesses:
    """As a process sees the processes of ``worker``."""
    result = SearchProcesses()
    result.base = worker.base
    return result


def test_who_has_connected_when_the_process_ends_is_answered(worker: SearchProcesses) -> None:
    async def steps() -> None:
        one = server.SearchServer(plain, lambda: None, grace=PATIENCE)
        listener = same(worker).listen(0)
        reader, writer = await asyncio.open_unix_connection(worker.path(0))  # nobody has accepted it
        one.stop.set()
        running = asyncio.ensure_future(one.serve(listener, lambda: worker.leave(0)))
        await until(lambda: not os.path.exists(worker.path(0)))
        writer.writelines(wire.request(SCOPE, b"{}", ""))
        assert (await wire.read_answer(reader, PATIENCE))["status"] == 200
        writer.close()
        await running

    scene(steps())


def test_a_process_that_is_told_to_end_finishes_its_searches_but_not_for_ever(worker: SearchProcesses) -> None:
    async def steps() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await go_on.wait()
            await plain(scope, receive, send)

        for grace in (PATIENCE, 0.001):
            begun.clear()
            go_on.clear()
            one = server.SearchServer(slow, lambda: None, grace)
            running = asyncio.ensure_future(one.serve(same(worker).listen(0), lambda: worker.leave(0)))
            caller = Caller()
            asking = asyncio.ensure_future(caller.ask(worker))
            await begun.wait()
            one.stop.set()
            if grace > 1:
                await until(lambda: not os.path.exists(worker.path(0)))
                go_on.set()
                assert await asking and caller.sent[0]["status"] == 200
            await running
            go_on.set()
            await asking

    scene(steps())


def test_a_process_does_not_end_before_its_answer_is_sent() -> None:
    """A worker whose client reads slowly has not taken the last bytes when they are written."""

    class Writer:
        def __init__(self, tasks: set[Any]) -> None:
            self.tasks, self.closed, self.sent = tasks, False, b""

        def write(self, data: bytes) -> None:
            self.sent += data

        async def drain(self) -> None:
            assert not self.closed

        def close(self) -> None:
            self.closed = True

        async def wait_closed(self) -> None:
            assert self.closed and asyncio.current_task() in self.tasks
            self.sent += b" arrived"
            raise BrokenPipeError

    async def steps() -> None:
        one = server.SearchServer(plain, lambda: None, grace=PATIENCE)
        writer: Any = Writer(one.tasks)
        await one._connected(reader_of(wire.request(SCOPE, b"{}", "")), writer)
        assert writer.sent.endswith(wire.frame(wire.END, b"") + b" arrived") and not one.tasks

    scene(steps())


def test_nonsense_on_the_socket_ends_no_process(worker: SearchProcesses, caplog: pytest.LogCaptureFixture) -> None:
    async def steps() -> None:
        async with searching(worker, plain):
            for said in (b"GET / HTTP/1.1\r\n\r\n", wire.frame(wire.REQUEST, b"[") + wire.frame(wire.BODY, b""), b""):
                reader, writer = await asyncio.open_unix_connection(worker.path(0))
                writer.write(said)
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            assert await Caller().ask(worker)
        assert "is no request" in caplog.text

    scene(steps())


# the folder


def test_only_this_account_enters_the_folder_and_its_maker_removes_it(
    worker: SearchProcesses, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.folder and worker.folder.parent == folder
    assert stat.S_IMODE(worker.folder.stat().st_mode) == 0o700
    same(worker).listen(1).close()
    monkeypatch.setattr(os, "getpid", lambda: worker.arbiter + 1)
    worker.remove_folder()
    assert worker.folder.exists(), "a worker that ends leaves the others their sockets"
    monkeypatch.undo()
    worker.remove_folder()
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another account")
def test_another_account_of_the_machine_reaches_no_process() -> None:
    worker = SearchProcesses()
    worker.enable(1, {})
    assert worker.folder
    try:
        with same(worker).listen(0):
            code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            argv = ["/usr/bin/env", "python3", "-c", code, f"{worker.folder}/0"]
            own = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
            other = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False, user=65534)
        assert own.returncode == 0 and "PermissionError" in other.stderr
    finally:
        worker.remove_folder()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="Linux")
def test_the_folders_path_may_be_long_and_another_one_in_its_place_is_not_taken(tmp_path: Path) -> None:
    async def steps() -> None:
        deep = tmp_path.joinpath(*["x" * 60] * 4)
        deep.mkdir(parents=True)
        worker = SearchProcesses()
        worker.enable(1, {"TRACKBED_OWN_TMP": str(deep)})
        assert worker.folder
        async with searching(worker, plain):
            assert await Caller().ask(worker)
        shutil.rmtree(worker.folder)
        worker.folder.mkdir()  # a stranger's, who waits for requests there
        with pytest.raises(OSError):
            same(worker).listen(0)
        assert not await Caller().ask(worker) and not list(worker.folder.iterdir())

    scene(steps())


def test_where_sockets_have_no_place_workers_search_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = SearchProcesses()
    processes.enable(2, {"TRACKBED_OWN_TMP": str(tmp_path / "none")})
    assert (processes.folder, processes.most) == (None, 0) and "no folder for sockets" in capsys.readouterr().err
    monkeypatch.setattr(os.path, "isdir", lambda path: False)  # as without /proc
    monkeypatch.setattr(pool, "LONGEST", len(str(tmp_path)))
    processes.enable(2, {"TRACKBED_OWN_TMP": str(tmp_path)})
    assert (processes.folder, processes.most) == (None, 0) and "too long" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_server_goes_with_its_other_leftovers(folder: Path) -> None:
    worker = SearchProcesses()
    worker.enable(1, {"TRACKBED_OWN_TMP": str(folder)})
    same(worker).listen(0).close()
    assert leftovers.clear_files(folder, time.time()) == 0
    assert leftovers.clear_files(folder, time.time() + 2 * leftovers.LEFTOVER_SECONDS) == 1
    assert not list(folder.iterdir())


def test_a_killed_process_leaves_a_name_that_the_next_one_takes(worker: SearchProcesses) -> None:
    async def steps() -> None:
        same(worker).listen(0).close()
        assert os.path.exists(worker.path(0))
        assert not await Caller().ask(worker)
        async with searching(worker, plain):
            assert await Caller().ask(worker)

    scene(steps())


# the way of a request


@pytest.mark.parametrize(
    ("path", "method", "body", "kind"),
    [
        (SEARCH, "POST", b"{}", "computing"),
        ("/api/3.0/mlflow/traces/search", "POST", b"{}", "computing"),
        ("/graphql", "POST", b"{}", "computing"),
        ("/graphql", "POST", b'{"query": "mlflowListArtifacts"}', "lists"),
        (LIST, "GET", b"", "lists"),
        ("/api/2.0/mlflow/runs/log-metric", "POST", b"{}", ""),
        ("/api/2.0/mlflow-artifacts/artifacts/1/a", "PUT", b"x", ""),
        ("/version", "GET", b"", ""),
    ],
)
@pytest.mark.parametrize("answers", [True, False])
def test_what_searches_or_lists_is_handed_on_and_otherwise_answered_here(
    path: str, method: str, body: bytes, kind: str, answers: bool
) -> None:
    kinds: list[str] = []
    taken: list[tuple[str, bytes]] = []

    class Processes(SearchProcesses):
        async def answered(
            self, request: pool.PendingRequest, scope: Any, client: Any, given: bytes, send: Any
        ) -> bool:
            assert given == body and self.working == 1
            kinds.append(request.kind)
            return answers

    def way(name: str) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            taken.append((name, (await receive())["body"]))

        return app

    async def steps() -> None:
        paths = frozenset({SEARCH, "/api/2.0/mlflow/runs/log-metric"})
        app = router.Router(way("full"), way("store"), Queues(), way("fast"), paths, Processes())
        caller = Caller(body)
        await app({"type": "http", "path": path, "method": method, "query_string": b""}, caller.receive, caller.send)
        assert kinds == [kind] * bool(kind) and not app.processes.working
        assert [given for _, given in taken] == ([] if kind and answers else [body])
        if kind and not answers:
            assert taken[0][0] == ("fast" if path == SEARCH else "store" if kind == "lists" else "full")

    scene(steps())


FORKED = """
import asyncio, os, signal, sys
from pathlib import Path
from trackbed_mlflow.search_processes import pool, server
worker = pool.SearchProcesses()
worker.enable(1, {"TRACKBED_OWN_TMP": sys.argv[1]})
async def app(scope, receive, send):
    if scope["path"] == "/hang":
        os.kill(os.getpid(), signal.SIGKILL)
    score = Path("/proc/self/oom_score_adj")
    said = f"{os.getpid()} {os.nice(0)} {score.read_text() if score.exists() else 500}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": said.encode()})
ready, began = os.pipe()
if not (child := os.fork()):
    listener = worker.listen(0)
    os.write(began, b".")
    server.lower_priority()
    async def serve():
        await server.SearchServer(app, lambda: None, 60).serve(listener, lambda: worker.leave(0))
    asyncio.run(serve())
os.read(ready, 1)
class Client:
    gone = False
    async def receive(self):
        await asyncio.Event().wait()
async def ask(path):
    sent = []
    async def send(message):
        sent.append(message)
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    with worker.pending("computing") as pending:
        answered = await worker.answered(pending, scope, Client(), b"", send)
    return answered, sent[0]["status"] if sent else 0, b"".join(m.get("body", b"") for m in sent).decode()
async def steps():
    answered, status, said = await ask("/")
    pid, nice, score = said.split()
    assert (answered, status, int(pid)) == (True, 200, child) and int(nice) == min(19, os.nice(0) + 5), said
    assert int(score) >= 500
    assert (await ask("/hang"))[:2] == (True, 503)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (await ask("/"))[0] is False
asyncio.run(steps())
worker.remove_folder()
"""


def test_a_forked_process_steps_back_for_logging_and_a_killed_one_is_nobodys_end(folder: Path) -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.defpath, "TMPDIR": tempfile.gettempdir()}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(folder)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment,
    )
    assert done.returncode == 0 and pool.PROCESS_ENDED in done.stderr, done.stderr
    assert not list(folder.iterdir())
