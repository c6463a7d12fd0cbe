"""Nothing acknowledged is lost, whatever happens to a part; the system is usable again by itself or by `invoke up`."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from tests.conftest import Clone
from tests.faults.conftest import ROUNDS, Tally, acknowledged, lost, writing
from tests.integration import seen

BY_ITSELF = 90.0  # seconds a system has to come back without help
Fault = Callable[[Clone, random.Random], None]


def kill(part: str) -> Fault:
    """`kill -9` of a part's main process."""
    def fault(clone: Clone, rng: random.Random) -> None:
        os.kill(seen.main_process(clone, part), signal.SIGKILL)

    return fault


def freeze(part: str) -> Fault:
    """`docker pause`, or SIGSTOP of the process and its children, for some seconds."""
    def fault(clone: Clone, rng: random.Random) -> None:
        seconds = rng.uniform(1, 20)
        if clone.engine == "docker":
            seen.output("docker", "pause", seen.container(clone, part))
            time.sleep(seconds)
            seen.output("docker", "unpause", seen.container(clone, part))
            return
        stopped = family(seen.main_process(clone, part))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    return fault


def slow_database(clone: Clone, rng: random.Random) -> None:
    """PostgreSQL that runs a tenth of the time: SIGSTOP pulses."""
    for _ in range(60):
        pids = family(seen.main_process(clone, "postgres"))
        signal_all(pids, signal.SIGSTOP)
        time.sleep(0.18)
        signal_all(pids, signal.SIGCONT)
        time.sleep(0.02)


def partition(part: str) -> Fault:
    """The part is off the backend network for some seconds, and comes back with its name."""
    def fault(clone: Clone, rng: random.Random) -> None:
        network, container = f"{clone.project}_backend", seen.container(clone, part)
        seen.output("docker", "network", "disconnect", network, container)
        time.sleep(rng.uniform(1, 15))
        seen.output("docker", "network", "connect", "--alias", part, network, container)

    return fault


def family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                found += family(int(child))
        except OSError:
            continue
    return found


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # a connection that ended


def usable(clone: Clone) -> bool:
    """A write and a read through to database and store."""
    try:
        for path in ("mlflow/experiments/search?max_results=1", "mlflow-artifacts/artifacts?path=probe"):
            if requests.get(f"{clone.url('mlflow')}/api/2.0/{path}", timeout=5).status_code != 200:
                return False
    except requests.RequestException:
        return False
    return True


def round_of(clone: Clone, fault: Fault, rng: random.Random, tally: Tally, python: str, folder: Path) -> None:
    """Writers at work, a fault at a random moment, then everything acknowledged is looked for."""
    with writing(clone, python, folder, rng.randrange(2**31)) as journals:
        time.sleep(rng.uniform(1, 5))
        fault(clone, rng)
        began, helped = time.monotonic(), False
        time.sleep(0.5)
        while not usable(clone):
            if time.monotonic() - began > BY_ITSELF and not helped:
                helped = True
                done = clone.invoke("up")
                assert done.returncode == 0, done.stderr
            assert time.monotonic() - began < BY_ITSELF + 300, "not usable again"
            time.sleep(0.2)
        tally.worst = max(tally.worst, time.monotonic() - began)
        tally.repaired += helped
        time.sleep(3)  # the writers go on
    writes = acknowledged(journals)
    after = [write for write in writes if write["at"] > time.time() - 30]
    assert after, "no write got through after the fault"
    tally.rounds += 1
    tally.acknowledged += len(writes)
    tally.refused += len((folder / "refused").read_text().splitlines())
    missing = lost(clone, writes)
    tally.lost += missing
    assert not missing


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "kill postgres": (kill("postgres"), ("embedded", "docker")),
    "kill mlflow": (kill("mlflow"), ("embedded", "docker")),
    "kill store": (kill("store"), ("docker",)),
    "freeze postgres": (freeze("postgres"), ("embedded", "docker")),
    "freeze mlflow": (freeze("mlflow"), ("embedded", "docker")),
    "freeze store": (freeze("store"), ("docker",)),
    "slow postgres": (slow_database, ("embedded", "docker")),
    "partition postgres": (partition("postgres"), ("docker",)),
    "partition store": (partition("store"), ("docker",)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_acknowledged_is_lost(system: Clone, name: str, rng: random.Random, tallies: dict[str, Tally],
                                      client_python: str, tmp_path: Path) -> None:
    fault, engines = FAULTS[name]
    if system.engine not in engines:
        pytest.skip(f"the {system.engine} engine has no such part or network")
    tally = tallies.setdefault(f"{system.engine}, {name}", Tally())
    for number in range(ROUNDS):
        round_of(system, fault, rng, tally, client_python, tmp_path / str(number))
