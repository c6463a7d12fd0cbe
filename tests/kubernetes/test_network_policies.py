"""Who reaches whom, with a controller that enforces docker/kubernetes' NetworkPolicies: first pods that stand in for
those of every component, then a project that runs. Other tests' projects are below the policies meanwhile as well."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.engines.kubernetes.engine import KubernetesEngine
from tests.conftest import Clone
from tests.environment.kubernetes import images
from tests.kubernetes import cluster, connections
from tests.kubernetes.connections import METADATA, OUTSIDE, Place, Target
from tests.kubernetes.test_environment import apply, pod
from tests.kubernetes.test_manifests import rendered
from tests.unit.fakes import project

LABELS = {"app.kubernetes.io/name": "trackbed", "app.kubernetes.io/instance": "trackbed"}
PART = "app.kubernetes.io/component"
BACKEND, FRONTEND = {"dev.trackbed.backend": "true"}, {"dev.trackbed.frontend": "true"}
AROUND: dict[str, Target] = {
    "outside": (OUTSIDE, 8443),
    "outside:53": (OUTSIDE, 53),
    "metadata": (METADATA, 80),
    "dns": connections.DNS,
}
# by name: labels, ports, node
STAND_INS: dict[str, tuple[Mapping[str, str], tuple[int, ...], str]] = {
    "postgres": ({**LABELS, PART: "postgres"}, (5432,), "node1"),
    "store": ({**LABELS, PART: "store"}, (9000, 9001, 9002), "node2"),
    "mlflow": ({**LABELS, PART: "mlflow", **BACKEND, **FRONTEND}, (8000,), "node1"),
    "jupyter": ({**LABELS, PART: "jupyter", **FRONTEND}, (8888,), "node2"),
    "schema": ({**LABELS, PART: "schema", **BACKEND}, (8000,), "node2"),
    "bucket": ({**LABELS, PART: "bucket", **BACKEND}, (8000,), "node1"),
    "backup": ({**LABELS, PART: "backup", **BACKEND}, (8000,), "node1"),
    "run-mlflow": ({**LABELS, PART: "run-mlflow", **BACKEND, **FRONTEND}, (8000,), "node2"),
    "gateway": ({**LABELS, PART: "gateway"}, (8000, 8888), "node1"),
    "instance": ({**LABELS, PART: "postgres", "cnpg.io/cluster": "postgres"}, (5432, 8000), "node2"),
    "guest": ({}, (8080,), "node1"),
}
STRANGERS: dict[str, tuple[Mapping[str, str], tuple[int, ...], str]] = {
    "stranger": ({}, (8080,), "node2"),
    "operator": ({"app.kubernetes.io/name": "cloudnative-pg"}, (8080,), "node1"),
    "alice": ({**LABELS, PART: "jupyter", **FRONTEND}, (8888,), "node2"),  # another project's notebook
}
OUT = {"outside", "outside:53", "dns", "guest:8080", "stranger:8080", "operator:8080", "alice:8888"}
OTHERS = OUT | {"metadata"}  # whom our policies are not about
SERVERS = {"postgres:5432", "instance:5432", "store:9000", "store:9002"}
BASE = {
    "postgres": set[str](),
    "store": set[str](),
    "mlflow": {"jupyter:8888"} | SERVERS | OUT,
    "jupyter": {"mlflow:8000", "store:9000"} | OUT,
    "schema": SERVERS | OUT,
    "bucket": SERVERS | OUT,
    "backup": SERVERS | OUT,
    "run-mlflow": {"mlflow:8000"} | SERVERS | OUT,
    "gateway": set[str](),
    "instance": set[str](),
    "guest": OTHERS - {"guest:8080"},
    "stranger": OTHERS - {"stranger:8080"},
    "operator": OTHERS - {"operator:8080"},
    "alice": OTHERS - {"alice:8888"},
    "node1": OTHERS
    | {f"{name}:{port}" for name, (_, ports, node) in STAND_INS.items() if node == "node1" for port in ports},
}
GATEWAY = {"gateway:8000", "gateway:8888"}
BEHIND = {"mlflow:8000", "jupyter:8888"}
BACK = ("mlflow", "schema", "bucket", "backup", "run-mlflow")


def changed(*rows: tuple[str, set[str], set[str]]) -> dict[str, set[str]]:
    """The base's table, with what some places reach beside that, and what they do not; "" is every one that may."""
    result = dict(BASE)
    for name, more, less in rows:
        for place in [name] if name else [place for place, reached in BASE.items() if "outside" in reached]:
            result[place] = {one for one in (result[place] | more) - less if one.partition(":")[0] != place}
    return result


EXPECTED = {
    (): BASE,
    ("isolated",): changed(*((name, set[str](), OUT - {"dns"}) for name in BACK)),
    ("scheduled-backups",): changed(("backup", {"jupyter:8888"}, set())),
    ("isolated", "scheduled-backups"): changed(
        *((name, set[str](), OUT - {"dns"}) for name in BACK if name != "backup"), ("backup", {"jupyter:8888"}, set())
    ),
    ("ingress",): changed(("", BEHIND, set())),
    ("gateway",): changed(
        ("", GATEWAY, set()),
        ("jupyter", set(), {"store:9000"}),
        ("gateway", BEHIND | {"store:9000", "store:9001"} | OUT, set()),
    ),
    ("gateway", "isolated"): changed(
        ("", GATEWAY, set()),
        ("jupyter", set(), {"store:9000"}),
        ("gateway", BEHIND | {"store:9000", "store:9001"} | OUT, set()),
        *((name, set[str](), OUT - {"dns"}) for name in BACK),
    ),
    ("cloudnativepg",): changed(
        *((name, set[str](), {"postgres:5432"}) for name in BACK),
        ("instance", OTHERS, set()),
        ("operator", {"instance:5432", "instance:8000"}, set()),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def enforced() -> Iterator[None]:
    """Both nodes enforce NetworkPolicies."""
    if not (images.HOME / "bin" / "kube-router").is_file():
        pytest.skip(
            "NOT TESTED: tests/environment/kubernetes/binaries.sh kube-router builds the controller in 2 minutes"
        )
    cluster.script("network-policies.sh", "on")
    with connections.outside([53, 8443]), connections.metadata_services():
        yield
    cluster.script("network-policies.sh", "off")


@dataclass(frozen=True)
class Ground:
    """The stand-ins, in a namespace that also has somebody else's pod; strangers are in another one, ``other``."""

    namespace: str
    other: str
    places: Mapping[str, Place]
    targets: Mapping[str, Target]


def stand_in(namespace: str, name: str, labels: Mapping[str, str], ports: tuple[int, ...], node: str) -> dict[str, Any]:
    """A pod that accepts connections where another would; the kubelet asks it whether it is ready."""
    listening = " && ".join(f"/busybox httpd -p {port} -h /" for port in ports)
    container = {
        "command": ["/busybox", "sh", "-c", f"{listening} && exec /busybox sleep infinity"],
        "readinessProbe": {"httpGet": {"path": "/etc/hostname", "port": ports[0]}, "periodSeconds": 1},
    }
    made = pod(namespace, name, nodeName=node, container=container)
    made["metadata"]["labels"] = dict(labels)
    return made


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    own, other = names = [f"policies-{word}-{time.time_ns()}" for word in ("own", "other")]
    for name in names:
        cluster.kubectl("create", "namespace", name)
    apply(
        *(stand_in(own, name, *words) for name, words in STAND_INS.items()),
        *(stand_in(other, name, *words) for name, words in STRANGERS.items()),
    )
    places, targets = {"node1": connections.of_node("node1")}, dict(AROUND)
    for namespace, pods in ((own, STAND_INS), (other, STRANGERS)):
        cluster.until(f"the pods of {namespace}", lambda: all(map(cluster.ready, cluster.pods(namespace))))  # noqa: B023
        for one in cluster.pods(namespace):
            name = cluster.name(one)
            places[name] = connections.of_pod(one)
            targets |= {f"{name}:{port}": (places[name].own, port) for port in pods[name][1]}
    yield Ground(own, other, places, targets)
    cluster.kubectl("delete", "namespace", *names, "--wait=false")


def apply_policies(namespace: str, text: str, ip_blocks: bool = True) -> None:
    """The NetworkPolicies of rendered YAML, and no others, in the namespace."""
    listed = [one for one in yaml.safe_load_all(text) if one["kind"] == "NetworkPolicy"]
    for rule in (rule for one in listed for rule in one["spec"].get("egress", ()) if "to" in rule and not ip_blocks):
        rule["to"] = [peer for peer in rule["to"] if "ipBlock" not in peer]
    cluster.kubectl("delete", "networkpolicies", "--all", f"--namespace={namespace}")
    apply(*listed)


def settled(expected: Mapping[str, set[str]], ground: Ground) -> None:
    """It becomes so within seconds, and stays so."""
    places = {name: ground.places[name] for name in expected}
    seen: list[str] = []

    def same() -> bool:
        seen[:] = connections.differences(expected, connections.matrix(places, ground.targets))
        return not seen

    try:
        cluster.until("the connections that are promised, and no others", same)
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *seen])) from None
    assert same(), "\n".join(seen)


@pytest.mark.parametrize("components", EXPECTED, ids=lambda names: "+".join(names) or "base")
def test_who_reaches_whom(components: tuple[str, ...], ground: Ground, tmp_path: Path) -> None:
    apply_policies(ground.namespace, rendered(tmp_path / "overlay", ground.namespace, "base", components))
    settled(EXPECTED[components], ground)


@pytest.mark.parametrize("components", [(), ("gateway",)], ids=["base", "gateway"])
def test_pods_are_named_as_pods(components: tuple[str, ...], ground: Ground, tmp_path: Path) -> None:
    """Where an ipBlock is an address outside the cluster, as with Cilium, whatever it spans."""
    text = rendered(tmp_path / "overlay", ground.namespace, "base", components)
    apply_policies(ground.namespace, text, ip_blocks=False)
    expected = dict(EXPECTED[components])
    for name in (*BACK, "jupyter", "gateway"):
        expected[name] = expected[name] - {"outside"} - (OUT - {"dns", "outside:53"} if name == "gateway" else set())
    settled(expected, ground)


def test_notebooks_of_other_projects(ground: Ground, tmp_path: Path) -> None:
    """NOTEBOOK_NAMESPACES lets those in that it names, with what `invoke up` would apply; and nobody else there."""
    given = {"kube_namespace": ground.namespace, "notebook_namespaces": ground.other, "gpu": "none"}
    apply_policies(ground.namespace, KubernetesEngine(project(tmp_path, engine="kubernetes", **given)).rendering.text)
    settled(changed(("alice", {"mlflow:8000"}, set())), ground)


def test_the_kubelet_still_asks_pods_whether_they_are_ready(ground: Ground, tmp_path: Path) -> None:
    apply_policies(ground.namespace, rendered(tmp_path / "overlay", ground.namespace, "base"))
    time.sleep(5)  # three questions that are not answered make a pod unready
    assert [cluster.name(one) for one in cluster.pods(ground.namespace) if not cluster.ready(one)] == []


def test_a_project_that_runs(deployment: Clone) -> None:
    """Its own pods, its Jobs again, the ports of this machine, and what the notebook asks for."""
    ports = {"postgres": (5432,), "store": (9000, 9001, 9002), "mlflow": (8000,), "jupyter": (8888,)}
    pods = {name: cluster.pods(deployment.project, name)[0] for name in ports}
    places = {name: connections.of_pod(one) for name, one in pods.items()}
    targets = AROUND | {f"{name}:{port}": (places[name].own, port) for name in ports for port in ports[name]}
    around = {"outside", "outside:53", "dns"}
    own = {name: {one for one in BASE[name] if one in targets} | (around & BASE[name]) for name in ports}
    settled(own, Ground(deployment.project, "", places, targets))
    cluster.kubectl("delete", "jobs", "schema", "bucket", f"--namespace={deployment.project}")
    cluster.kubectl("delete", "pod", cluster.name(pods["mlflow"]), f"--namespace={deployment.project}")
    done = deployment.invoke("up")
    assert done.returncode == 0, done.stderr
    checked = deployment.invoke("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
