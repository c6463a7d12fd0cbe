"""The cluster as far as its user may see it: nodes, what they have, who holds it. Nothing here is required."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from helpers import plurals, side_by_side
from helpers.engines.kubernetes import identity, objects
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.engines.kubernetes.identity import Identity
from helpers.engines.kubernetes.kubectl import Kubectl, configuration
from helpers.engines.kubernetes.objects import Object
from helpers.engines.kubernetes.target import FILE
from helpers.errors import EngineUnavailable, TrackbedError

SHOWN = 3  # of those who hold something
ENDED = ("Succeeded", "Failed")
PLACED = ",".join(("spec.nodeName!=", *(f"status.phase!={phase}" for phase in ENDED)))  # pods that hold something


@dataclass(frozen=True)
class Node:
    """A node that takes pods. Sizes in bytes, cores and devices by the name of the resource."""

    name: str
    ready: bool
    allocatable: Mapping[str, float]
    labels: Mapping[str, str]
    images: tuple[str, ...]
    answers: bool = True  # also one that takes no new pods


def node(thing: Object) -> Node:
    status = thing.get("status") or {}
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    answers = conditions.get("Ready") == "True"
    return Node(
        objects.name(thing),
        answers and not (thing.get("spec") or {}).get("unschedulable"),
        {key: objects.number(str(value)) for key, value in (status.get("allocatable") or {}).items()},
        objects.labels(thing),
        tuple(name for image in status.get("images") or () for name in image.get("names") or ()),
        answers,
    )


def holders(pods: Iterable[Object], resource: str) -> dict[str, float]:
    """How much of a resource pods hold, by who: a project, else a namespace. Those who hold most are first."""
    result: defaultdict[str, float] = defaultdict(float)
    for pod in pods:
        if (pod.get("spec") or {}).get("nodeName") and (count := asked(pod, resource)):
            project = objects.labels(pod).get(objects.PROJECT)
            who = f"project {project}" if project else f"namespace {pod['metadata'].get('namespace')}"
            result[who] += count
    return dict(sorted(result.items(), key=lambda item: (-item[1], item[0])))


def held_by(holders: Mapping[str, float]) -> str:
    """Who holds most, to follow a sentence."""
    listed = list(holders.items())
    named = "".join(f", {number:g} held by {who}" for who, number in listed[:SHOWN])
    others = sum(number for _, number in listed[SHOWN:])
    return named + (f", {others:g} by {plurals.counted(len(listed) - SHOWN, 'other')}" if others else "")


def asked(pod: Object, resource: str) -> float:
    """How much of a resource the containers of a pod ask for together."""
    total = 0.0
    for container in (pod.get("spec") or {}).get("containers") or ():
        resources = container.get("resources") or {}
        amount = (resources.get("requests") or {}).get(resource) or (resources.get("limits") or {}).get(resource) or 0
        total += objects.number(str(amount))
    return total


class Cluster:
    """What can be seen of it. A user of one namespace may not see the nodes: then there are none to know of."""

    def __init__(self, deployment: KubernetesDeployment) -> None:
        self.deployment = deployment

    @property
    def kubectl(self) -> Kubectl:
        return self.deployment.kubectl

    def meet(self) -> str:
        """The version of a cluster that answers, and is the one with the project's data. Raises EngineUnavailable."""
        version, _ = side_by_side.ask(self.version, lambda: self.identity)
        self.require_same()
        return version

    def version(self) -> str:
        """The API server's. Raises EngineUnavailable with what to do where it gives none."""
        try:
            said = self.kubectl.ask("ask for the version", "get", "--raw", "/version", timeout=10)
            return str(json.loads(said)["gitVersion"])
        except EngineUnavailable:
            raise
        except (TrackbedError, ValueError, KeyError) as error:
            words = (error.message, error.hint) if isinstance(error, TrackbedError) else (str(error), "")
            raise EngineUnavailable(*words) from None

    @cached_property
    def identity(self) -> Identity:
        return identity.look(self.kubectl, self.deployment.target.cluster)

    def require_same(self) -> None:
        """Raise EngineUnavailable where the context leads to another cluster than the one that has the data."""
        target = self.deployment.target
        if target.cluster and target.cluster.contradicts(self.identity):
            kept = self.deployment.folder / FILE
            raise EngineUnavailable(
                f"context {target.context} leads to another cluster than the one with this project's data",
                f"give that name in the kubeconfig ({configuration()}) back to the project's cluster; if it is the "
                f"same one at another address, or its data are gone for good: `rm {kept}`, then `invoke up`",
            )

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        try:
            return tuple(node(thing) for thing in self.kubectl.everywhere("nodes", resourceVersion="0"))
        except TrackbedError:
            return ()

    @cached_property
    def images(self) -> frozenset[str]:
        """The names of images that some node tells of; kubelets list their largest 50."""
        return frozenset(name for one in self.nodes for name in one.images)

    def pods(self) -> Sequence[Object] | None:
        """Those that have a node, of all namespaces; None where they may not be seen."""
        try:
            return self.kubectl.everywhere("pods", fieldSelector=PLACED, resourceVersion="0")
        except TrackbedError:
            return None

    def total(self, resource: str) -> int:
        return int(sum(one.allocatable.get(resource, 0) for one in self.nodes if one.ready))

    def storage_classes(self) -> Sequence[Object] | None:
        try:
            return self.kubectl.listed("storageclasses")
        except TrackbedError:
            return None
