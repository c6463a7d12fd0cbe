"""Nothing acknowledged is lost, whatever happens to a service; the project is usable again by itself or by `invoke up`."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import requests

from tests.conftest import Clone
from tests.faults.conftest import ROUNDS
from tests.faults.harness import Fault, Harness, Tally, Write, family, lost, signal_all
from tests.integration import inspection


def kill(service: str) -> Fault:
    """`kill -9` of a service's main process."""

    def fault(clone: Clone, rng: random.Random) -> None:
        # the workers of a killed server may answer before the next one runs
        os.kill(inspection.running_process(clone, service), signal.SIGKILL)

    return fault


def freeze(service: str) -> Fault:
    """`docker pause`, or SIGSTOP of the process and its children, for 1 to 20 seconds, mostly few."""

    def fault(clone: Clone, rng: random.Random) -> None:
        seconds = 1 + 19 * rng.random() ** 3
        if clone.engine == "docker":
            inspection.output("docker", "pause", inspection.container(clone, service))
            time.sleep(seconds)
            inspection.output("docker", "unpause", inspection.container(clone, service))
            return
        stopped = family(inspection.running_process(clone, service))
        signal_all(stopped, signal.SIGSTOP)
        time.sleep(seconds)
        signal_all(stopped, signal.SIGCONT)

    return fault


def slow_database(clone: Clone, rng: random.Random) -> None:
    """PostgreSQL that runs a tenth of the time, for 6 seconds: SIGSTOP pulses."""
    for _ in range(30):
        pids = family(inspection.running_process(clone, "postgres"))
        signal_all(pids, signal.SIGSTOP)
        time.sleep(0.18)
        signal_all(pids, signal.SIGCONT)
        time.sleep(0.02)


def partition(service: str) -> Fault:
    """The service is off the backend network for some seconds, and comes back with its name."""

    def fault(clone: Clone, rng: random.Random) -> None:
        network, container = f"{clone.project}_backend", inspection.container(clone, service)
        inspection.output("docker", "network", "disconnect", network, container)
        time.sleep(1 + 14 * rng.random() ** 3)
        inspection.output("docker", "network", "connect", "--alias", service, network, container)

    return fault


FAULTS: dict[str, tuple[Fault, tuple[str, ...]]] = {
    "kill postgres": (kill("postgres"), ("embedded", "docker")),
    "kill mlflow": (kill("mlflow"), ("embedded", "docker")),
    "kill store": (kill("store"), ("docker",)),
    "kill store-sync": (kill("store-sync"), ("docker",)),
    "freeze postgres": (freeze("postgres"), ("embedded", "docker")),
    "freeze mlflow": (freeze("mlflow"), ("embedded", "docker")),
    "freeze store": (freeze("store"), ("docker",)),
    "slow postgres": (slow_database, ("embedded", "docker")),
    "partition postgres": (partition("postgres"), ("docker",)),
    "partition store": (partition("store"), ("docker",)),
}
CASES = [
    (engine, name) for engine in ("embedded", "docker") for name, (_, engines) in FAULTS.items() if engine in engines
]


@pytest.mark.parametrize(("engine", "name"), CASES, indirect=["engine"])
def test_nothing_acknowledged_is_lost(harness: Harness, name: str, tallies: dict[str, Tally]) -> None:
    if "store-sync" in name and harness.clone.environment.get("TRACKBED_OBJECT_STORE") != "versitygw":
        pytest.skip("NOT TESTED: only VersityGW has this service")
    tally = tallies.setdefault(f"{harness.clone.engine}, {name}", Tally())
    for _ in range(ROUNDS):
        harness.round(FAULTS[name][0], tally)
    harness.verify(tally)


def test_everything_of_the_session_is_still_there(harness: Harness) -> None:
    """What an earlier class left is not lost by a later one."""
    assert lost(harness.url, harness.kept) == []


@pytest.mark.parametrize("kind", ["run", "metric", "param", "artifact"])
def test_the_harness_notices_a_loss(harness: Harness, kind: str) -> None:
    """Of each kind: one write that is taken away behind the server's back is named."""
    writes: list[Write] = []
    while not any(write["kind"] == kind for write in writes):
        harness.writers.go()
        harness.writers.pause()
        writes += harness.writers.fresh()
    chosen = next(write for write in writes if write["kind"] == kind)
    run = chosen["run"]
    if kind == "run":
        expected = [write for write in writes if write["run"] == run]
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            inspection.psql(harness.clone, f"DELETE FROM {table} WHERE run_uuid = '{run}'")
    elif kind == "artifact":
        expected = [chosen]
        uri = inspection.mlflow(harness.clone, f"runs/get?run_id={run}")["run"]["info"]["artifact_uri"]
        path = f"{uri.removeprefix('mlflow-artifacts:/')}/{chosen['path']}"
        requests.put(f"{harness.url}/api/2.0/mlflow-artifacts/artifacts/{path}", data=b"other", timeout=30)
    else:
        expected = [chosen]
        where = f"step = {chosen['step']}" if kind == "metric" else f"key = '{chosen['key']}'"
        inspection.psql(harness.clone, f"DELETE FROM {kind}s WHERE run_uuid = '{run}' AND {where}")
    result = lost(harness.url, writes)
    assert len(result) == len(expected) and all(any(str(w) in line for line in result) for w in expected), result
