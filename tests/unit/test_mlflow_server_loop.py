"""trackbed_mlflow/server_loop.py: the server's loop ends when it is told to, without looking all the time."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from trackbed_mlflow.server_loop import ToldToEnd


class Uvicorn:
    """What is used of uvicorn's Server."""

    def __init__(self) -> None:
        self.should_exit = False
        self.ticks: list[int] = []

    async def on_tick(self, counter: int) -> bool:
        self.ticks.append(counter)
        return self.should_exit

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.should_exit = True


class Server(ToldToEnd, Uvicorn): ...  # type: ignore[misc]


def test_a_signal_ends_the_loop_before_its_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    patient, original = 0.0, asyncio.wait_for

    async def wait_for(waited: Any, seconds: float) -> Any:
        nonlocal patient
        patient = seconds
        return await original(waited, 3600)  # it does not end by itself

    monkeypatch.setattr(asyncio, "wait_for", wait_for)
    server = Server()

    async def run() -> None:
        asyncio.get_running_loop().call_later(0.01, server.handle_exit, signal.SIGTERM, None)
        await original(server.main_loop(), 60)

    asyncio.run(run())
    assert server.ticks == [0, 10] and patient == 1


def test_a_signal_before_the_loop_is_not_missed() -> None:
    server = Server()
    server.handle_exit(signal.SIGTERM, None)
    asyncio.run(server.main_loop())
    assert server.ticks == [0]


def test_each_look_counts_as_a_second_of_uvicorns(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()

    async def no_word(waited: Any, seconds: float) -> None:
        waited.close()
        server.should_exit = len(server.ticks) == 3
        raise TimeoutError

    monkeypatch.setattr(asyncio, "wait_for", no_word)
    asyncio.run(server.main_loop())
    assert server.ticks == [0, 10, 20, 30]
