"""Nothing acknowledged is lost when pods, a node, or the API server fail while clients write.

The writers reach MLflow's Service as a pod does, so what they see does not depend on a port-forward.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest

from helpers.errors import INTERRUPTED
from tests.conftest import PATIENCE, Clone
from tests.faults.conftest import Harnesses, client_python, harnesses, rng, tallies
from tests.faults.harness import Fault, Harness, Tally, lost
from tests.faults.proxy import Proxy
from tests.kubernetes import cluster

__all__ = ["client_python", "harnesses", "rng", "tallies"]
pytestmark = pytest.mark.timeout(600)
API_SERVER_DOWN = 60.0  # seconds


@pytest.fixture(scope="module")
def replicated(lasting_clones: Callable[..., Clone]) -> Iterator[Clone]:
    """A project with two MLflow replicas, whose ``mlflow`` port is that of the Service itself."""
    clone = lasting_clones("kubernetes")
    clone.environment["TRACKBED_MLFLOW_REPLICAS"] = "2"
    clone.up()
    relay = Proxy("127.0.0.1", cluster.service_address(clone.project, "mlflow"), random.Random(1))
    yield dataclasses.replace(clone, ports={**clone.ports, "mlflow": relay.port})
    relay.close()


@pytest.fixture
def harness(replicated: Clone, harnesses: Harnesses, rng: random.Random) -> Harness:
    result = harnesses(replicated)
    result.rng = rng
    return result


def delete(service: str, *words: str) -> Fault:
    """`kubectl delete pod` of one of a service's pods."""

    def fault(clone: Clone, rng: random.Random) -> None:
        chosen = rng.choice(cluster.pods(clone.project, service))
        cluster.kubectl("delete", "pod", cluster.name(chosen), f"--namespace={clone.project}", "--wait=false", *words)

    return fault


def roll(clone: Clone, rng: random.Random) -> None:
    """All replicas of the server replaced, one after the other."""
    words = ("deployment/mlflow", f"--namespace={clone.project}")
    cluster.kubectl("rollout", "restart", *words)
    cluster.kubectl("rollout", "status", *words, f"--timeout={PATIENCE}s", timeout=PATIENCE + 20)


def without_api_server(clone: Clone, rng: random.Random) -> None:
    with cluster.stopped("kube-apiserver"):
        time.sleep(API_SERVER_DOWN)


def unplug(clone: Clone, rng: random.Random) -> None:
    """The node of one replica is cut off until the replica is replaced on the other node."""
    away = next(pod for pod in cluster.pods(clone.project, "mlflow") if pod["spec"]["nodeName"] == "node2")

    def replaced() -> bool:
        found = cluster.pods(clone.project, "mlflow")
        return len([pod for pod in found if cluster.ready(pod) and pod["spec"]["nodeName"] == "node1"]) == 2

    with cluster.cut_off("node2"):
        cluster.until(f"a replica in place of {cluster.name(away)}", replaced)


@contextmanager
def gathered(clone: Clone) -> Iterator[None]:
    """With database and store on node1: no pod with a volume is replaced while its node is cut off."""
    with cluster.cordoned("node2"):
        for service in ("postgres", "store"):
            for pod in cluster.pods(clone.project, service):
                if pod["spec"]["nodeName"] == "node2":
                    cluster.kubectl("delete", "pod", cluster.name(pod), f"--namespace={clone.project}")
            cluster.until(service, partial(is_ready, clone, service))
    yield


@contextmanager
def moving(clone: Clone) -> Iterator[None]:
    """PostgreSQL's node takes no pod, so that its next one is on the other."""
    node = node_of(clone, "postgres")
    with cluster.cordoned(node):
        yield
        assert node_of(clone, "postgres") != node


def node_of(clone: Clone, service: str) -> str:
    (pod,) = cluster.pods(clone.project, service)
    return str(pod["spec"]["nodeName"])


def is_ready(clone: Clone, service: str) -> bool:
    found = cluster.pods(clone.project, service)
    return bool(found) and all(map(cluster.ready, found))


FAULTS: dict[str, Fault] = {
    "mlflow's pod killed": delete("mlflow", "--grace-period=0", "--force"),
    "mlflow's pod deleted": delete("mlflow"),
    "postgres' pod killed": delete("postgres", "--grace-period=0", "--force"),
    "postgres' pod deleted": delete("postgres"),
    "postgres' pod moved to another node": delete("postgres"),
    "store's pod killed": delete("store", "--grace-period=0", "--force"),
    "rolling restart": roll,
    "API server down for a minute": without_api_server,
    "node cut off": unplug,
}
AROUND = {"postgres' pod moved to another node": moving, "node cut off": gathered}


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_acknowledged_is_lost(harness: Harness, name: str, tallies: dict[str, Tally]) -> None:
    tally = tallies.setdefault(f"kubernetes, {name}", Tally())
    with AROUND.get(name, nullcontext)(harness.clone):
        harness.round(FAULTS[name], tally)
    harness.verify(tally)


def test_the_pod_of_single_commands_goes_with_the_task(replicated: Clone, tmp_path: Path) -> None:
    def left() -> list[str]:
        return [cluster.name(pod) for pod in cluster.pods(replicated.project, "run-mlflow")]

    backup = ("backup", f"--to={tmp_path / 'a.tar'}")
    running = replicated.start(*backup)
    cluster.until("the pod of the backup's commands", left)
    assert running.interrupt() == INTERRUPTED and left() == []
    replicated.value(*backup)
    assert left() == []


def test_everything_of_the_session_is_still_there(harness: Harness) -> None:
    assert lost(harness.url, harness.kept) == []
