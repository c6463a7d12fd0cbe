"""The cluster is one: two nodes that run pods, reach each other, and fail as nodes do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.environment.kubernetes import images
from tests.integration import inspection
from tests.kubernetes import cluster

PAUSE = "trackbed-test/pause:1"


@pytest.fixture
def namespace() -> Iterator[str]:
    """Gone afterwards, with all that is in it."""
    name = f"rig-{time.time_ns()}"
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--grace-period=0", "--force")


def pod(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": PAUSE, **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


def apply(*objects: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def runs(namespace: str, name: str) -> bool:
    phase = "--output=jsonpath={.status.phase}"
    return cluster.kubectl("get", "pod", name, f"--namespace={namespace}", phase) == "Running"


def answers(*words: str) -> bool:
    with suppress(AssertionError):
        return "server" in cluster.kubectl(*words)
    return False


def test_pods_of_both_nodes_reach_each_other_by_name(namespace: str) -> None:
    serve = {"command": ["/busybox", "httpd", "-f", "-p", "8080", "-h", "/"]}
    server = pod(namespace, "server", nodeName="node2", container=serve)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server", "namespace": namespace},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    asking = [pod(namespace, node, nodeName=node) for node in cluster.NODES]
    apply(server, service, *asking)
    for one in ("server", *cluster.NODES):
        cluster.until(f"pod {one}", partial(runs, namespace, one))
    for node in cluster.NODES:
        wget = ("/busybox", "wget", "-q", "-O", "-", "-T", "5", "http://server/etc/hostname")
        words = ("exec", node, f"--namespace={namespace}", "--", *wget)
        cluster.until(f"an answer on {node}", partial(answers, *words))


def test_gpus_are_counted(namespace: str) -> None:
    one, three = (
        pod(namespace, f"gpus-{count}", container={"resources": {"limits": {"amd.com/gpu": str(count)}}})
        for count in (1, 3)
    )
    apply(one, three)
    cluster.until("the pod with one GPU", partial(runs, namespace, "gpus-1"))
    assert "kfd" in cluster.kubectl("exec", "gpus-1", f"--namespace={namespace}", "--", "/busybox", "ls", "/dev")
    found = json.loads(cluster.kubectl("get", "pod", "gpus-3", f"--namespace={namespace}", "--output=json"))
    assert "Insufficient amd.com/gpu" in found["status"]["conditions"][0]["message"]


def test_images_are_brought_once() -> None:
    images.import_images([PAUSE])
    assert images.import_images([PAUSE]) == []


def test_up_again_changes_nothing_and_the_machine_keeps_its_rules() -> None:
    folder = images.HOME / "pids"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    cluster.script("up.sh")
    time.sleep(2)  # kube-proxy would end then, had its configuration been written
    for path in folder.iterdir():
        assert Path("/proc", path.read_text().strip()).exists(), path.name
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    rules = inspection.output("iptables-save")
    assert "KUBE" not in rules and "CNI-" not in rules
    assert Path("/proc/sys/net/ipv4/conf/all/route_localnet").read_text().strip() == "0"
