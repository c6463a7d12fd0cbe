"""Settings of the images, and of the limits of the services."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import references
from helpers.settings import kinds
from helpers.settings.declaration import setting
from helpers.settings.kinds import one_of, optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ImagesAndLimits:
    """Images and limits"""

    registry_mirror: str = setting(
        "",
        optional(kinds.MIRROR, ""),
        "Registry that replaces all others for the default images and for the bases of our own; or for some of "
        "them, as in docker.io=HOST/hub ghcr.io=HOST/ghcr",
        only=("containers",),
    )
    build_network: str = setting(
        "default",
        one_of("default", "host"),
        "Network of image builds; host where containers have no way out",
        only=("containers",),
    )
    mlflow_image: str = setting(
        "trackbed/mlflow:3.17.2", kinds.IMAGE, "Image of the MLflow server", compose=True, only=("server", "containers")
    )
    jupyter_image: str = setting(
        "",
        optional(kinds.IMAGE, ""),
        "Image of the notebook; empty is our own trackbed/jupyter-mlflow:cpu, :cuda or :rocm",
        only=("containers",),
    )
    gateway_image: str = setting(
        "trackbed/gateway:2.11.7",
        kinds.IMAGE,
        "Image of the gateway",
        compose=True,
        only=("containers", "public"),
    )
    postgres_image: str = setting(
        references.image("postgres").reference, kinds.IMAGE, "Image of PostgreSQL", only=("server", "containers")
    )
    minio_image: str = setting(
        references.image("minio").reference,
        kinds.IMAGE,
        "Image of the object store minio: Silo, the maintained fork of MinIO",
        only=("server", "containers"),
    )
    versitygw_image: str = setting(
        references.image("versitygw").reference,
        kinds.IMAGE,
        "Image of the object store versitygw",
        only=("server", "containers"),
    )
    memory_limit: str = setting(
        "4g",
        kinds.SIZE,
        "Memory limit of each service (embedded: of the MLflow server's processes together, 1 GiB each at least)",
        compose=True,
    )
    pids_limit: int = setting(
        "4096",
        kinds.integer(256, 1000000),
        "Limit of processes and threads in each service",
        compose=True,
        only=("containers", "machine"),
    )
