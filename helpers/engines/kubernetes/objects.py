"""Names, labels and sizes as the API has them, as in docker/kubernetes. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.services import BUCKET, GATEWAY, JUPYTER, MLFLOW, POSTGRES, SCHEMA, STORE, STORE_SYNC

INSTANCE = "dev.trackbed.instance"  # the project's id: label and annotation of the namespace
ACTIVE = "dev.trackbed.active"  # annotation of the namespace: the active database, prefix and store
MADE = "dev.trackbed.made"  # annotation of a namespace that Trackbed made, and may delete
SECRETS = "dev.trackbed.secrets"  # annotation of a pod template: changed secrets are read by new pods
TEMPLATE = "dev.trackbed.template"  # annotation of a workload: the hash of what it was made from
MARKS = "trackbed-owner"  # the ConfigMap with the namespace's annotations where its user may not change the namespace
IMAGE = "dev.trackbed.image"  # annotation of a pod template: the image that was loaded into the nodes under its name
GPU = "dev.trackbed.gpu"  # annotation of the notebook's template: the GPUs it was given, in words
PART = "app.kubernetes.io/component"
PROJECT = "app.kubernetes.io/instance"
OURS = "--selector=app.kubernetes.io/name=trackbed"  # of kubectl: what docker/kubernetes has, whichever project's

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Workload:
    """The object that runs a service, and the service's container in its pods."""

    kind: str
    name: str
    container: str

    @property
    def reference(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


WORKLOADS: Mapping[str, Workload] = {
    POSTGRES: Workload("StatefulSet", "postgres", "postgres"),
    STORE: Workload("StatefulSet", "store", "store"),
    STORE_SYNC: Workload("StatefulSet", "store", "store-sync"),
    SCHEMA: Workload("Job", "schema", "schema"),
    BUCKET: Workload("Job", "bucket", "bucket"),
    MLFLOW: Workload("Deployment", "mlflow", "mlflow"),
    GATEWAY: Workload("StatefulSet", "gateway", "gateway"),
    JUPYTER: Workload("StatefulSet", "jupyter", "jupyter"),
}
CONTROLLERS = ("StatefulSet", "Deployment", "Job")
_UNITS = {
    **{f"{letter}i": 2.0 ** (10 * power) for power, letter in enumerate("KMGTPE", 1)},
    **{"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18},
}


def kind(thing: Object) -> str:
    return str(thing["kind"])


def name(thing: Object) -> str:
    return str(thing["metadata"]["name"])


def labels(thing: Object) -> Mapping[str, str]:
    return thing["metadata"].get("labels") or {}


def notes(thing: Object) -> Mapping[str, str]:
    return thing["metadata"].get("annotations") or {}


def find(things: Iterable[Object], of_kind: str, named: str) -> Object | None:
    """The object of that kind and name; None where there is none."""
    return next((one for one in things if kind(one) == of_kind and name(one) == named), None)


def container(pod_spec: Object, named: str) -> Object | None:
    """A container of a pod, also one that is an init container which stays."""
    every = (*(pod_spec.get("containers") or ()), *(pod_spec.get("initContainers") or ()))
    return next((one for one in every if one["name"] == named), None)


def namespace(project: str) -> str:
    """The project's name as a namespace, which knows no underscore and ends with none of its dashes."""
    return project.replace("_", "-").strip("-")


def apart(service: str) -> str:
    """The component of a pod that runs one command for a service."""
    return f"run-{service}"


def label(project: str) -> str:
    """The project's name as the value of a label, which ends with none of its dashes."""
    return project.strip("-_")


def quantity(size: str) -> str:
    """A size of the settings (512m, 16g, or bytes) as the API writes it."""
    return size if size.isdigit() else f"{size[:-1]}{size[-1].upper()}i"


def number(text: str) -> float:
    """A quantity of the API (2, 500m, 4Gi, 128974848) as a number: bytes, cores, devices."""
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text[: -len(unit)]) * factor
    return float(text or 0)
