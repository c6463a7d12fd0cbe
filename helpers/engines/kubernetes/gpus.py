"""What ``--gpu`` means in a cluster: a resource of the vendor's device plugin, how many, and on which nodes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.cluster import Cluster, Node
from helpers.engines.kubernetes.objects import Object
from helpers.errors import TrackbedError
from helpers.gpu import accelerator, detect, node_types, wheels
from helpers.gpu.accelerator import Accelerator
from helpers.gpu.node_types import NodeType
from helpers.services import JUPYTER
from helpers.settings import Settings

RESOURCES = {node_types.AMD: "amd.com/gpu", node_types.NVIDIA: "nvidia.com/gpu"}
# labels in which the vendors' tools tell a node's model
MODELS = {
    node_types.AMD: ("amd.com/gpu.product-name", "amd.com/gpu.family"),
    node_types.NVIDIA: ("nvidia.com/gpu.product",),
}
# that own an AMD GPU's devices on the nodes: numbers differ by distribution; as in docker/kubernetes/components/gpu-amd
DEVICE_GROUPS = (44, 105, 109, 110, 992, 993)
PLUGINS = {
    node_types.AMD: "https://github.com/ROCm/k8s-device-plugin",
    node_types.NVIDIA: "https://github.com/NVIDIA/k8s-device-plugin",
}


@dataclass(frozen=True)
class Gpus:
    """What the notebook asks for. ``limits`` and ``placement`` are parts of its pod; as text it is said in words."""

    accelerator: Accelerator = field(default_factory=Accelerator)
    count: int = 0
    label: str = ""  # a node's label, one of whose ``models`` it has to have
    models: tuple[str, ...] = ()

    @property
    def resource(self) -> str:
        return RESOURCES.get(self.accelerator.kind, "")

    @property
    def limits(self) -> dict[str, str]:
        return {self.resource: str(self.count)} if self.resource else {}

    @property
    def placement(self) -> dict[str, Any]:
        if not self.resource:
            return {}
        # nodes with GPUs are often kept for those who ask for one
        result: dict[str, Any] = {"tolerations": [{"key": self.resource, "operator": "Exists", "effect": "NoSchedule"}]}
        if self.accelerator.kind == node_types.AMD:
            result["securityContext"] = {"supplementalGroups": list(DEVICE_GROUPS)}
        if self.label:
            match = {"matchExpressions": [{"key": self.label, "operator": "In", "values": list(self.models)}]}
            needed = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [match]}}
            result["affinity"] = {"nodeAffinity": needed}
        return result

    def __str__(self) -> str:
        if not self.resource:
            return "none"
        return f"{self.count} x {self.resource}" + (f" ({', '.join(self.models)})" if self.models else "")


def given(stateful_set: Object | None) -> str:
    """The kind of GPU that a notebook which is there was given; "" for none."""
    pod = stateful_set["spec"]["template"]["spec"] if stateful_set else {}
    limits = ((objects.container(pod, JUPYTER) or {}).get("resources") or {}).get("limits") or {}
    return next((kind for kind, resource in RESOURCES.items() if resource in limits), "")


def choose(settings: Settings, cluster: Cluster, kept: str = "") -> Gpus:
    """What the setting means in this cluster. Raises TrackbedError for a type that is not supported.

    ``kept``: the kind that the notebook has, which "auto" leaves it, though its nodes may be away for a moment.
    """
    gpu = settings.gpu
    if gpu.kind == node_types.NONE:
        return Gpus()
    kind = gpu.kind
    if kind == node_types.AUTO:
        present = [vendor for vendor, resource in RESOURCES.items() if cluster.total(resource)]
        if not present and not kept:
            return Gpus(Accelerator(reason="auto: no node has a GPU"))
        kind = kept or max(present, key=lambda vendor: cluster.total(RESOURCES[vendor]))
    reason = "auto: the cluster has some" if gpu.kind == node_types.AUTO else accelerator.named(gpu).reason
    torch = wheels.word(settings.torch, settings.torch_index)
    build = wheels.CPU if torch == wheels.CPU else wheels.named(accelerator.VARIANT[kind], gpu.old)
    label, models = _models(gpu.node, cluster.nodes) if gpu.node else ("", ())
    return Gpus(Accelerator(kind, reason, torch=build), settings.gpu_count, label, models)


def _models(node_type: NodeType, nodes: Iterable[Node]) -> tuple[str, tuple[str, ...]]:
    """The label with which nodes tell their model, and its values that a node type means; ("", ()) where none tells."""
    listed = tuple(nodes)
    # a label has no spaces, and AMD's names the product where the kernel names the architecture
    names = "|".join((node_type.models.replace(" ", "[ _-]"), detect.SERIES.get(node_type.models, node_type.models)))
    for label in MODELS[node_type.kind]:
        values = sorted({one.labels[label] for one in listed if label in one.labels})
        chosen = tuple(value for value in values if re.search(rf"(?<![A-Za-z0-9])({names})(?![0-9])", value))
        if chosen:
            return label, chosen
        if values:
            raise TrackbedError(
                f"no node of the cluster has such a GPU: their label {label} says {', '.join(values)}",
                f"--gpu={node_type.kind} takes any of them",
            )
    return "", ()
