"""Processes as psutil tells of them, on Linux and macOS alike."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from helpers import process_table, waiting
from tests.conftest import PATIENCE
from tests.unit import disguise

VARIABLE = "TRACKBED_TEST_OF_PROCESSES"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: how Linux shows processes")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, VARIABLE: "a=b \xe4"}
    code = "print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def test_what_another_process_has(child: subprocess.Popen[bytes]) -> None:
    assert process_table.variable(child.pid, VARIABLE) == "a=b \xe4"
    assert process_table.variable(child.pid, "NO_SUCH_VARIABLE") == ""
    assert process_table.memory(child.pid) > 1 << 20
    assert process_table.title(child.pid).startswith("python")
    assert os.geteuid() in process_table.owners()


def test_an_odd_value_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "environ", lambda _: {VARIABLE: "\udcff"})
    assert process_table.variable(os.getpid(), VARIABLE) == "\ufffd"


def test_one_that_ended_and_was_not_taken_note_of(child: subprocess.Popen[bytes]) -> None:
    assert process_table.alive(child.pid)
    os.kill(child.pid, 9)
    assert waiting.until(lambda: not process_table.alive(child.pid), 10), "a zombie counts as running"
    assert process_table.variable(child.pid, VARIABLE) == "" and process_table.memory(child.pid) == 0


def test_only_the_topmost_of_a_family(child: subprocess.Popen[bytes]) -> None:
    assert process_table.with_variable(VARIABLE, "a=b \xe4") == [child.pid]
    assert process_table.with_variable(VARIABLE, "a=b \xe4", {os.geteuid()}) == [child.pid]
    assert process_table.with_variable(VARIABLE, "a=b \xe4", {os.geteuid() + 1}) == []


def test_a_variable_of_a_stranger_is_not_believed(child: subprocess.Popen[bytes]) -> None:
    assert process_table.variable(child.pid, VARIABLE, {os.geteuid()}) == "a=b \xe4"
    assert process_table.variable(child.pid, VARIABLE, {os.geteuid() + 1}) == ""


@on_linux
def test_a_name_that_looks_like_another_uid() -> None:
    other = 0 if os.geteuid() else 1
    with disguise.started(disguise.named(other), {VARIABLE: "forged"}) as process:
        assert psutil.Process(process.pid).uids().effective == other, "nothing was forged"
        assert process_table.owner(process.pid) == os.geteuid()
        assert process_table.with_variable(VARIABLE, "forged", {os.geteuid()}) == [process.pid]
        assert process_table.with_variable(VARIABLE, "forged", {other}) == []


@on_linux
def test_one_whose_first_thread_has_ended_runs_and_is_ended() -> None:
    with disguise.started(disguise.HEADLESS) as process:
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "nothing was hidden"
        assert process_table.alive(process.pid)
        process_table.end([process.pid], 0.2, {})
        assert not process_table.alive(process.pid)


def test_one_with_the_number_of_one_that_has_ended(child: subprocess.Popen[bytes]) -> None:
    """psutil keeps what it listed before, and refuses it once its number is another's."""
    kept = next(process for process in psutil.process_iter() if process.pid == child.pid)
    vars(kept).update(_pid_reused=True)
    assert process_table.with_variable(VARIABLE, "a=b \xe4") == [child.pid]


def test_a_listener_where_only_root_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: str) -> None:
        raise psutil.AccessDenied

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert process_table.listener(port) == (True, os.getpid())
        monkeypatch.setattr(psutil, "net_connections", refused)
        assert process_table.listener(port) == (True, os.getpid())
    assert process_table.listener(port) == (False, 0)


def test_waiting_gives_the_last_look_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([0, 0, 7])
    assert waiting.until(lambda: next(looks), PATIENCE, 0.01) == 7
    now, seen = 0.0, list[float]()

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def look() -> int:
        seen.append(now)
        return 0

    with monkeypatch.context() as clock:
        clock.setattr(time, "monotonic", lambda: now)
        clock.setattr(time, "sleep", sleep)
        assert waiting.until(look, 1.0, 0.25) == 0
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0]
    with pytest.raises(ZeroDivisionError):
        waiting.until(lambda: 1 // 0, PATIENCE)
