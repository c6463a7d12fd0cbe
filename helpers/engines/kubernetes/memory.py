"""How much memory containers use: from the metrics server, else from the nodes themselves, where their user may ask."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from helpers import side_by_side
from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.kubectl import Kubectl
from helpers.engines.kubernetes.objects import Object

SECONDS = 10.0
Used = Mapping[tuple[str, str], int]  # bytes by pod and container


def look(kubectl: Kubectl, pods: Iterable[Object]) -> Used:
    """Of the pods of the namespace; {} where neither can be asked."""
    answer = _ask(kubectl, f"/apis/metrics.k8s.io/v1beta1/namespaces/{kubectl.namespace}/pods")
    if answer:
        return dict(_of_metrics(answer))
    nodes = {str(pod["spec"]["nodeName"]) for pod in pods if pod["spec"].get("nodeName")}
    result: dict[tuple[str, str], int] = {}
    paths = [f"/api/v1/nodes/{node}/proxy/stats/summary" for node in sorted(nodes)]
    for summary in side_by_side.each(partial(_ask, kubectl, path) for path in paths):
        result |= dict(_of_node(summary, kubectl.namespace))
    return result


def _ask(kubectl: Kubectl, path: str) -> dict[str, Any]:
    done = kubectl.run("get", "--raw", path, f"--request-timeout={SECONDS:.0f}s", timeout=SECONDS + 5)
    try:
        return dict(json.loads(done.stdout)) if done.code == 0 else {}
    except ValueError:
        return {}


def _of_metrics(answer: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], int]]:
    for pod in answer.get("items") or ():
        for container in pod.get("containers") or ():
            yield (pod["metadata"]["name"], container["name"]), int(objects.number(str(container["usage"]["memory"])))


def _of_node(answer: Mapping[str, Any], namespace: str) -> Iterator[tuple[tuple[str, str], int]]:
    for pod in answer.get("pods") or ():
        if pod["podRef"]["namespace"] != namespace:
            continue
        for container in pod.get("containers") or ():
            used = (container.get("memory") or {}).get("workingSetBytes", 0)
            yield (pod["podRef"]["name"], container["name"]), int(used)
