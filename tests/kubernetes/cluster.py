"""The real cluster of tests/environment/kubernetes: what is in it, and what happens to it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from helpers import references
from helpers.engines.kubernetes.images import full
from tests.conftest import PATIENCE, ROOT, Clone
from tests.environment.kubernetes import images
from tests.integration import inspection

SCRIPTS = ROOT / "tests" / "environment" / "kubernetes"
NODES = ("node1", "node2")


def script(name: str, *words: str, timeout: float = PATIENCE) -> str:
    """The stdout of one of the environment's scripts. Raises AssertionError with what it said."""
    return inspection.output(str(SCRIPTS / name), *words, timeout=timeout)


def answers() -> bool:
    """Whether the cluster runs."""
    return (images.HOME / "conf" / "admin.kubeconfig").is_file() and (
        inspection.run(str(images.HOME / "bin" / "kubectl"), *_admin(), "get", "--raw", "/readyz").returncode == 0
    )


def _admin() -> tuple[str, ...]:
    return (f"--kubeconfig={images.HOME / 'conf' / 'admin.kubeconfig'}", "--request-timeout=120s")


def kubectl(*words: str, stdin: str = "", timeout: float = PATIENCE) -> str:
    """The stdout of kubectl as the cluster's administrator."""
    return inspection.output(str(images.HOME / "bin" / "kubectl"), *_admin(), *words, stdin=stdin, timeout=timeout)


def objects(kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    found = json.loads(kubectl("get", kind, f"--namespace={namespace}", f"--selector={selector}", "--output=json"))
    return list(found["items"])


def pods(namespace: str, service: str = "") -> list[dict[str, Any]]:
    """The pods of a project, or of one of its services, that are not about to end."""
    selector = f"app.kubernetes.io/component={service}" if service else ""
    return [pod for pod in objects("pods", namespace, selector) if "deletionTimestamp" not in pod["metadata"]]


def name(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def service_address(namespace: str, service: str) -> tuple[str, int]:
    """Where this machine reaches a service as a pod does, without the API server."""
    found = json.loads(kubectl("get", "service", service, f"--namespace={namespace}", "--output=json"))
    return str(found["spec"]["clusterIP"]), int(found["spec"]["ports"][0]["port"])


def until(what: str, holds: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Seconds until it held. Raises AssertionError when it never does."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began


def condition(reference: str, kind: str) -> bool:
    """Whether an object outside of namespaces, as ``node/node1``, has this condition. A new object has null for all."""
    conditions = json.loads(kubectl("get", reference, "--output=json")).get("status", {}).get("conditions") or ()
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


@contextmanager
def cut_off(node: str) -> Iterator[None]:
    """The node's cable is pulled for that time; afterwards the node is ready again."""
    script("link.sh", "down", node)
    try:
        yield
    finally:
        script("link.sh", "up", node)
        until(f"{node} is back", lambda: condition(f"node/{node}", "Ready"))


@contextmanager
def cordoned(node: str) -> Iterator[None]:
    """The node takes no new pod for that time."""
    kubectl("cordon", node)
    try:
        yield
    finally:
        kubectl("uncordon", node)


@contextmanager
def stopped(program: str) -> Iterator[None]:
    """One program of the cluster is down for that time."""
    script("program.sh", "stop", program)
    try:
        yield
    finally:
        script("program.sh", "start", program)


@contextmanager
def gpus(node: str, resource: str, count: int) -> Iterator[None]:
    """The node reports that many, and then again what it did."""
    path = f"jsonpath={{.status.capacity.{resource.replace('.', chr(92) + '.')}}}"
    before = kubectl("get", "node", node, f"--output={path}") or "0"
    script("gpus.sh", node, resource, str(count))
    try:
        yield
    finally:
        script("gpus.sh", node, resource, before)


def bring_images(clone: Clone) -> list[str]:
    """Build a project's images and give them to both nodes; gives the names that were missing there."""
    on_cluster = {"TRACKBED_ENGINE": "kubernetes"}
    done = clone.invoke("build", timeout=900, around=on_cluster)
    assert done.returncode == 0, done.stderr
    done = clone.invoke("up", "--dry-run", around=on_cluster)
    assert done.returncode == 0, done.stderr
    lines = (line.partition(" image: ")[2].strip("'\"") for line in done.stdout.splitlines())
    pinned = {f"{one.name.rpartition(':')[0]}@{one.digest}": one.name for one in references.images().values()}
    names = {pinned.get(name, name) for name in filter(None, lines)}  # Docker's engine here has no digest of a registry
    missing = images.import_images(sorted(names))
    inspection.until(lambda: {full(name) for name in names} <= _listed(), _listed)
    return missing


def _listed() -> set[str]:
    """The images that both nodes tell of, some seconds after they got them. One that lost its name has null for it."""
    nodes = json.loads(kubectl("get", "nodes", *NODES, "--output=json"))["items"]
    return set.intersection(
        *({name for image in node["status"].get("images", ()) for name in image["names"] or ()} for node in nodes)
    )


def start() -> bool:
    """Start what does not run of the cluster, for this process and its children; True when nothing ran."""
    started = not answers()
    lines = script("up.sh", timeout=3600)
    shown = inspection.output("bash", "-c", f'{lines}\nprintf "%s\\n" "$KUBECONFIG" "$PATH" "$NO_PROXY"')
    os.environ.update(zip(("KUBECONFIG", "PATH", "NO_PROXY"), shown.splitlines(), strict=True))
    return started


def stop() -> None:
    script("down.sh")
