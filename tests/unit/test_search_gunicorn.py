"""How gunicorn starts, counts and ends search processes (trackbed_mlflow/search_processes/gunicorn_classes.py), and where
there are any. With gunicorn itself: tests/integration/test_waiting.py."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import fast_path, memory_limit, request_queues, serve
from trackbed_mlflow.errors import Stop
from trackbed_mlflow.search_processes import gunicorn_classes, pool
from trackbed_mlflow.search_processes.pool import SearchProcesses


class Gunicorn:
    """What is used of gunicorn's Arbiter, as it is there."""

    WORKERS: dict[int, Any] = {}

    def __init__(self, workers: int) -> None:
        self.WORKERS = {}
        self.num_workers, self.age, self.ended = workers, 0, list[tuple[int, int]]()
        self.failure: Exception | None = None

    def spawn_worker(self) -> None:
        if self.failure:
            raise self.failure
        self.age += 1
        worker = SimpleNamespace(age=self.age, slot=None, began=0.0)
        gunicorn_classes.pre_fork(self, worker)
        self.WORKERS[100 + self.age] = worker

    def kill_worker(self, pid: int, number: int) -> None:
        self.ended.append((pid, number))

    def manage_workers(self) -> None:
        while len(self.WORKERS) < self.num_workers:
            self.spawn_worker()
        workers = sorted(self.WORKERS.items(), key=lambda item: item[1].age)
        while len(workers) > self.num_workers:
            self.kill_worker(workers.pop(0)[0], signal.SIGTERM)

    def handle_ttin(self) -> None:
        self.num_workers += 1
        self.manage_workers()

    def handle_ttou(self) -> None:
        if self.num_workers > 1:
            self.num_workers -= 1
            self.manage_workers()

    def reload(self) -> None:
        for _ in range(self.num_workers):
            self.spawn_worker()
        self.manage_workers()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> SearchProcesses:
    """There may be two."""
    result = SearchProcesses()
    result.most = 2
    monkeypatch.setattr(gunicorn_classes, "processes", result)
    return result


@pytest.fixture
def arbiter(processes: SearchProcesses) -> Any:
    """With two workers."""
    result = gunicorn_classes.arbiter_class(Gunicorn)(2)
    result.manage_workers()
    return result


def slots(arbiter: Any) -> list[int | None]:
    return [worker.slot for worker in arbiter.WORKERS.values()]


def end(arbiter: Any, pid: int, seconds: float) -> None:
    """As gunicorn reaps a process that lived for so long."""
    worker = arbiter.WORKERS.pop(pid)
    worker.began = time.monotonic() - seconds
    gunicorn_classes.child_exit(arbiter, worker)


def test_each_question_starts_one_process_until_there_are_as_many_as_may_be(arbiter: Any) -> None:
    for expected in ([None, None, 0], [None, None, 0, 1], [None, None, 0, 1]):
        arbiter.handle_ttin()
        arbiter.manage_workers()  # after each signal
        assert slots(arbiter) == expected
    assert not arbiter.ended and arbiter.num_workers == 2


def test_a_process_that_has_ended_is_started_again_only_when_it_is_asked_for(arbiter: Any) -> None:
    arbiter.handle_ttin()
    arbiter.handle_ttin()
    end(arbiter, 103, seconds=300)
    arbiter.manage_workers()
    assert slots(arbiter) == [None, None, 1]
    arbiter.handle_ttin()
    assert slots(arbiter) == [None, None, 1, 0] and not arbiter.ended


def test_a_worker_that_has_ended_is_replaced_by_a_worker(arbiter: Any) -> None:
    arbiter.handle_ttin()
    end(arbiter, 101, seconds=1)
    arbiter.manage_workers()
    assert sorted(slots(arbiter), key=str) == [0, None, None]
    arbiter.handle_ttin()
    assert slots(arbiter).count(1) == 1, "the end of a worker says nothing about them"


def test_fewer_workers_are_fewer_workers_and_never_none(arbiter: Any) -> None:
    arbiter.handle_ttin()
    arbiter.handle_ttou()
    assert arbiter.ended == [(101, signal.SIGTERM)]
    end(arbiter, 101, seconds=60)
    arbiter.handle_ttou()
    assert arbiter.num_workers == 1 and len(arbiter.ended) == 1
    assert sorted(slots(arbiter), key=str) == [0, None]


def test_a_reload_ends_them_with_the_old_workers(arbiter: Any) -> None:
    arbiter.handle_ttin()
    arbiter.pause_until = float("inf")
    arbiter.reload()
    assert {pid for pid, number in arbiter.ended if number == signal.SIGTERM} == {101, 102, 103}
    for pid in (101, 102, 103):
        end(arbiter, pid, seconds=60)
    arbiter.manage_workers()
    arbiter.handle_ttin()
    assert sorted(slots(arbiter), key=str) == [0, None, None]


def test_one_that_ends_at_once_or_cannot_begin_is_not_started_again_and_again(
    arbiter: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arbiter.handle_ttin()
    end(arbiter, 103, seconds=0)
    for _ in range(3):
        arbiter.handle_ttin()
    assert slots(arbiter) == [None, None]
    arbiter.pause_until -= pool.PAUSE_SECONDS
    arbiter.failure = OSError("Resource temporarily unavailable")
    arbiter.handle_ttin()
    arbiter.handle_ttin()
    assert capsys.readouterr().err.count("did not begin: Resource temporarily unavailable") == 1
    arbiter.failure = None
    arbiter.pause_until -= pool.PAUSE_SECONDS
    arbiter.handle_ttin()
    assert slots(arbiter) == [None, None, 0]


def test_without_them_the_signal_means_what_it_means_to_gunicorn(arbiter: Any, processes: SearchProcesses) -> None:
    processes.most = 0
    arbiter.handle_ttin()
    assert slots(arbiter) == [None, None, None]


class Uvicorn:
    """What is used of uvicorn's worker."""

    end: BaseException | None = None
    served = False

    def init_process(self) -> None:
        if self.end:
            raise self.end

    async def _serve(self) -> None:
        self.served = True


@pytest.mark.parametrize(
    ("failure", "code"), [(SystemExit(3), 1), (SystemExit(4), 1), (SystemExit(0), 0), (MemoryError(), 1)]
)
def test_one_that_cannot_begin_never_ends_the_server(failure: BaseException, code: int) -> None:
    """gunicorn ends all when a process has the code 3 or 4."""
    worker = gunicorn_classes.worker_class(Uvicorn, 1)()
    worker.end, worker.slot = failure, 0
    with pytest.raises(SystemExit) as caught:
        worker.init_process()
    assert caught.value.code == code
    worker.slot = None
    with pytest.raises(type(failure)) as kept:
        worker.init_process()
    assert kept.value is failure


class Pool:
    """What is used of SQLAlchemy's pool of connections."""

    def __init__(self, kept: int, more: int) -> None:
        self._pool, self._max_overflow = SimpleNamespace(maxsize=kept), more


def engine(kept: int, more: int) -> Any:
    result = SimpleNamespace(pool=Pool(kept, more), renewed=0)
    result.dispose = lambda: setattr(result, "renewed", result.renewed + 1)
    return result


@pytest.mark.parametrize(
    ("kept", "more", "worker", "search"), [(5, 10, (5, 6), (4, 0)), (3, 1, (2, 0), (2, 0)), (5, 2, (5, 0), (2, 0))]
)
def test_a_worker_and_a_process_beside_it_open_no_more_connections_than_a_worker_alone(
    monkeypatch: pytest.MonkeyPatch, kept: int, more: int, worker: tuple[int, int], search: tuple[int, int]
) -> None:
    for searches, expected in ((False, worker), (True, search)):
        one, other = engine(kept, more), SimpleNamespace(pool=object())
        monkeypatch.setattr(gunicorn_classes.served, "engines", [one, one, other])
        gunicorn_classes.share_connections(searches)
        assert (one.pool._pool.maxsize, one.pool._max_overflow) == expected and one.renewed == 1
    assert sum(worker) + sum(search) <= kept + more


def test_a_lone_search_has_a_connection_beside_all_that_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's pool is of 5 connections and 10 more; while a lock holds those that log, nothing else has to wait."""
    one = engine(5, 10)
    monkeypatch.setattr(gunicorn_classes.served, "engines", [one])
    gunicorn_classes.share_connections(False)
    assert request_queues.Queues().logging.places < one.pool._pool.maxsize + one.pool._max_overflow


@pytest.mark.parametrize("there_may_be", [True, False])
def test_a_worker_keeps_all_its_connections_where_nobody_searches_beside_it(
    monkeypatch: pytest.MonkeyPatch, processes: SearchProcesses, tmp_path: Any, there_may_be: bool
) -> None:
    one = engine(5, 10)
    monkeypatch.setattr(gunicorn_classes.served, "engines", [one])
    if there_may_be:
        processes.enable(1, {"TRACKBED_OWN_TMP": str(tmp_path)})
    worker = gunicorn_classes.worker_class(Uvicorn, 1)()
    asyncio.run(worker._serve())
    assert worker.served and one.renewed == int(there_may_be)


# where there are any


def chosen(environment: dict[str, str], arbiter: type = Gunicorn, workers: int = 2) -> tuple[bool, dict[str, Any]]:
    settings: dict[str, Any] = {"workers": workers, "worker_class": Uvicorn}
    return serve.with_search_processes(arbiter, settings, environment) is not arbiter, settings


@pytest.fixture
def enabled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many there may be."""
    result: list[int] = []
    monkeypatch.setattr(pool.processes, "enable", lambda most, environment: result.append(most))
    monkeypatch.setattr(fast_path, "fallbacks", {})
    monkeypatch.setattr(fast_path, "limited", {})
    return result


@pytest.mark.parametrize(
    ("limit", "workers", "expected"),
    [
        ("4g", 2, 2),  # the defaults
        ("", 2, 2),
        ("4294967296", 2, 2),  # as Kubernetes says it
        ("3g", 2, 2),
        ("2g", 2, 0),
        ("512m", 1, 0),
        ("64g", 2, 2),
        ("2g", 1, 1),
        ("4g", 3, 0),
        ("12g", 8, 8),
    ],
)
def test_each_process_has_room_beside_the_workers(
    enabled: list[int], capsys: pytest.CaptureFixture[str], limit: str, workers: int, expected: int
) -> None:
    environment = {memory_limit.LIMIT: limit}
    assert memory_limit.search_process_count(environment, workers) == expected
    others, settings = chosen(environment, workers=workers)
    assert (others, enabled) == (bool(expected), [expected] * bool(expected))
    said = capsys.readouterr().err
    assert bool(said) is not others
    if said:  # what it names is enough
        assert "then type `invoke up`" in said and ("MLFLOW_WORKERS" in said) == (workers > 1)
        named = said.partition("MEMORY_LIMIT=")[2].split()[0].rstrip(",")
        assert fast_path.limited == {"search processes": f"MEMORY_LIMIT={named}"}, "`invoke status` says it too"
        assert memory_limit.search_process_count({memory_limit.LIMIT: named}, workers) == workers
    assert bool(fast_path.limited) is not others
    assert (settings["worker_class"] is Uvicorn) is not others and ("pre_fork" in settings) is others


@pytest.mark.parametrize(("soft", "expected"), [(2 << 30, 3 << 29), (5 << 28, 1 << 30), (resource.RLIM_INFINITY, None)])
def test_a_process_has_what_its_worker_does_not_keep(
    monkeypatch: pytest.MonkeyPatch, soft: int, expected: int | None
) -> None:
    given: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda *words: given.append(words))
    memory_limit.leave_reserve()
    limits = [] if expected is None else [(resource.RLIMIT_DATA, (expected, resource.RLIM_INFINITY))]
    assert given == limits


def test_plain_mlflow_has_none(enabled: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen({fast_path.SWITCH: "off"}) == (False, {"workers": 2, "worker_class": Uvicorn}) and not enabled
    assert not capsys.readouterr().err
    with pytest.raises(Stop):
        chosen({fast_path.SWITCH: "maybe"})


def test_another_gunicorn_is_left_alone_and_status_says_so(enabled: list[int]) -> None:
    class Other:
        WORKERS: dict[int, Any] = {}

    assert chosen({}, Other) == (False, {"workers": 2, "worker_class": Uvicorn}) and not enabled
    assert "no handle_ttin, kill_worker" in fast_path.fallbacks["search processes"]
