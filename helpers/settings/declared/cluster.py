"""Settings of the services in a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.settings import kinds
from helpers.settings.declaration import NOTEBOOK, UP, setting
from helpers.settings.kinds import one_of, optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Cluster:
    """Kubernetes"""

    kube_context: str = setting(
        "",
        optional(kinds.CONTEXT, ""),
        "Context of your kubeconfig whose cluster runs the services; empty is the current one at the first start",
        tasks=(*NOTEBOOK, "doctor"),
        only=("cluster",),
        instead="for a cluster: --engine=kubernetes",
    )
    kube_namespace: str = setting(
        "",
        optional(kinds.NAMESPACE, ""),
        "Namespace of the services; empty is the project's name",
        tasks=(*NOTEBOOK, "doctor"),
        only=("cluster",),
        instead="for a cluster: --engine=kubernetes",
    )
    image_registry: str = setting(
        "",
        optional(kinds.REGISTRY, ""),
        "Registry from which the nodes of a cluster take our own images, as `invoke build --push` fills it",
        only=("cluster",),
    )
    gpu_count: int = setting(
        "1",
        kinds.integer(1, 64),
        "Number of GPUs that the notebook asks the cluster for",
        tasks=NOTEBOOK,
        only=("cluster", "gpu"),
        instead="--devices=0,1 names the GPUs of a machine",
    )
    mlflow_replicas: int = setting(
        "1",
        kinds.integer(1, 32),
        "Number of the MLflow server's pods, each with MLFLOW_WORKERS processes",
        tasks=UP,
        only=("server", "cluster"),
        instead="MLFLOW_WORKERS in .env is the number of its processes",
    )
    gateway_service: str = setting(
        "loadbalancer",
        one_of("loadbalancer", "nodeport"),
        "Service of the gateway in a cluster: loadbalancer, or nodeport, which MLFLOW_PORT and JUPYTER_PORT then are",
        tasks=UP,
        only=("cluster", "public"),
    )
    database_host: str = setting(
        "",
        optional(kinds.SERVER, ""),
        "PostgreSQL of your own, in place of Trackbed's; its role mlflow has the password POSTGRES_PASSWORD",
        tasks=UP,
        only=("server", "cluster"),
        instead="for a cluster: --engine=kubernetes",
    )
    database_tls: str = setting(
        "require",
        one_of("require", "off"),
        "TLS to DATABASE_HOST: require, or off within a network of your own",
        only=("server", "cluster"),
    )
    notebook_namespaces: str = setting(
        "",
        optional(kinds.NAMESPACES, ""),
        "Namespaces whose notebooks may log to this project's MLflow, where the cluster enforces NetworkPolicies",
        tasks=UP,
        only=("server", "cluster"),
        instead="for a cluster: --engine=kubernetes",
    )
    storage_class: str = setting(
        "",
        optional(kinds.STORAGE_CLASS, ""),
        "Storage class of the volumes; empty is the cluster's default",
        only=("cluster",),
    )
    database_volume_size: str = setting("20g", kinds.SIZE, "Size of the database's volume", only=("server", "cluster"))
    store_volume_size: str = setting(
        "100g", kinds.SIZE, "Size of the object store's volume", only=("server", "cluster", "own-store")
    )
    workspace_volume_size: str = setting("20g", kinds.SIZE, "Size of the workspace's volume", only=("cluster",))
