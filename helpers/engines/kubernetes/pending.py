"""Why a pod has no node, or a workload no pod, in a sentence. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from helpers.engines.kubernetes import cluster, objects, refusals
from helpers.engines.kubernetes.cluster import Node
from helpers.engines.kubernetes.objects import Object
from helpers.engines.kubernetes.pods import age
from helpers.suggestions import shown

INSUFFICIENT = re.compile(r"Insufficient ([a-zA-Z0-9./-]+[a-zA-Z0-9])")
# what the scheduler says of a volume of another node, up to 1.32 and later
ELSEWHERE = ("volume node affinity conflict", "didn't match PersistentVolume's node affinity")
ATTACHING = ("FailedAttachVolume", "SuccessfulAttachVolume")  # reasons of events
ENDING_SECONDS = 10.0  # after its time to end, in which the cluster forgets a pod whose node answers
TAINT = re.compile(r"untolerated taint(?:\(s\)|s)? ?\{([^}]*)\}")


def message(pod: Object) -> str:
    """What the scheduler said of a pod that has no node; "" for one that has, or that it has not seen yet."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    scheduled = next((one for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False"), None)
    return str(scheduled.get("message", "")) if scheduled else ""


def explain(pod: Object, nodes: Sequence[Node], pods: Iterable[Object] | None, context: str) -> tuple[str, str]:
    """Why a pod has no node, and what to do; ("", "") for one that has. ``pods``: of all namespaces, where seen."""
    said = message(pod)
    if not said:
        return "", ""
    short = INSUFFICIENT.findall(said)
    special = [name for name in short if "/" in name] or short
    if "unbound immediate PersistentVolumeClaims" in said or "unbound PersistentVolumeClaims" in said:
        return (
            "its volume was not made yet, or the cluster cannot make it",
            f"`kubectl get storageclass --context {context}` shows whether there is a default; STORAGE_CLASS names one",
        )
    if special:
        return _insufficient(pod, special[0], nodes, list(pods) if pods is not None else None, context)
    if any(words in said for words in ELSEWHERE):
        return (
            "its volume is on another node than those that may take it: that volume can attach to one node only",
            "bring that node back, or use a storage class whose volumes every node reaches",
        )
    if match := TAINT.search(said):
        return (
            f"every node that fits is kept for others ({match[1].strip()})",
            f"`kubectl describe nodes --context {context}` shows the taints",
        )
    if "were unschedulable" in said:
        return (
            "a node that may fit is cordoned: it takes no new pods",
            f"`kubectl get nodes --context {context}` shows which; `kubectl uncordon NODE` lets it take pods again",
        )
    if "didn't match Pod's node affinity/selector" in said:
        return "no node has the labels that it asks for", f"`kubectl get nodes --show-labels --context {context}`"
    return shown(said.rstrip("."), 300), f"`kubectl get nodes --context {context}` shows the nodes"


def _insufficient(
    pod: Object, resource: str, nodes: Sequence[Node], pods: list[Object] | None, context: str
) -> tuple[str, str]:
    count = cluster.asked(pod, resource)
    amount = _amount(resource, count)
    show = f"`kubectl describe nodes --context {context}` shows who holds what"
    if not nodes:
        return f"no node has {amount} free {resource}", show
    total = sum(node.allocatable.get(resource, 0) for node in nodes if node.ready)
    largest = max((node.allocatable.get(resource, 0) for node in nodes if node.ready), default=0)
    if not total and "/" in resource:
        return (
            f"no node has any {resource}",
            "the vendor's device plugin is not there, or finds no GPU; --gpu=none goes on without",
        )
    words = f"no node has {amount} free {resource}: {_amount(resource, total)} in all"
    if largest < total:
        words += f", {_amount(resource, largest)} on one node at most"
    if pods is not None and ("/" in resource or resource == "cpu"):
        words += cluster.held_by(cluster.holders(pods, resource))
    fix = "wait until they are free, or ask for fewer: --gpu-count=1" if "/" in resource else show
    return words, fix


def _amount(resource: str, count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if resource == "memory" else f"{count:g}"


def refused(events: Iterable[Object], workload: str) -> str:
    """Why a workload gets no pod, as its controller tells; "" where nothing was refused."""
    for event in sorted(events, key=_when, reverse=True):
        concerned = str((event.get("involvedObject") or {}).get("name", ""))
        if event.get("reason") != "FailedCreate" or not re.fullmatch(rf"{re.escape(workload)}(-[a-z0-9]+)?", concerned):
            continue
        said = str(event.get("message", ""))
        if match := refusals.QUOTA.search(said):
            return (
                f"the quota {match['name']} allows {match['most']}, {match['used']} is used, "
                f"{match['asked']} more was asked for"
            )
        if match := refusals.POD_SECURITY.search(said):
            return f"the namespace's pod security {match['level']} refuses it: {match['why']}"
        return shown(said.partition("error: ")[2] or said, 300)
    return ""


def held_by_node(pods: Iterable[Object], nodes: Iterable[Node], context: str) -> tuple[str, str]:
    """The node that keeps a service with a volume down: one that does not answer, or does not end its pod; ("", "")
    where none does. Kubernetes makes no other pod, because the volume may still be written to there."""
    silent = {one.name for one in nodes if not one.answers}
    for pod in pods:
        node = str((pod.get("spec") or {}).get("nodeName") or "")
        ends = str(pod["metadata"].get("deletionTimestamp") or "")
        late = bool(ends) and age(ends) > ENDING_SECONDS
        if node in silent or (node and late):
            return (
                f"node {node}, which has its volume, {'does not answer' if node in silent else 'does not end its pod'}",
                f"bring that node back; if it is gone for good: `kubectl delete node {node} --context {context}`",
            )
    return "", ""


def unattached(pod: Object, events: Iterable[Object], others: Iterable[Object], context: str) -> tuple[str, str]:
    """Why the node of a pod cannot attach its volume; ("", "") where it can. ``events`` of the pod; ``others``: the
    service's pods, one of which may still have it."""
    attaching = sorted((one for one in events if one.get("reason") in ATTACHING), key=_when)
    said = str(attaching[-1].get("message", "")) if attaching and attaching[-1]["reason"] == ATTACHING[0] else ""
    if not said:
        return "", ""
    if not said.startswith("Multi-Attach error"):
        return f"its volume cannot be attached to its node: {shown(said, 300)}", "`invoke doctor` shows more"
    here = (pod.get("spec") or {}).get("nodeName")
    nodes = {(one.get("spec") or {}).get("nodeName") for one in others} - {here, None}
    if len(nodes) != 1:
        return (
            "its volume is still attached to another node: it can attach to one node only",
            f"it follows once that node lets go; `kubectl get volumeattachments --context {context}` shows which",
        )
    (node,) = nodes
    return (
        f"its volume is still attached to node {node}: it can attach to one node only",
        f"it follows once that node lets go; if it is gone for good: `kubectl delete node {node} --context {context}`",
    )


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or objects.notes(event))
