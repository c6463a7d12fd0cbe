"""Settings of the object store that holds artifacts."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.settings import kinds
from helpers.settings.declaration import UP, setting
from helpers.settings.kinds import one_of, optional


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ObjectStore:
    """Object store"""

    object_store: str = setting(
        "auto",
        one_of("auto", "minio", "versitygw", "external", "folder"),
        "Object store for artifacts: auto is versitygw with Docker (minio where it holds data), and a folder without",
        tasks=(*UP, "move", "bundle"),
        only=("server",),
    )
    s3_port: int = setting(
        "9000",
        kinds.PORT,
        "Port of the S3 API",
        tasks=UP,
        compose=True,
        only=("server", "containers", "own-store"),
        instead="artifacts are reached through MLflow: --mlflow-port",
    )
    s3_console_port: int = setting(
        "9001",
        kinds.PORT,
        "Port of the object store's console",
        tasks=UP,
        compose=True,
        only=("server", "containers", "own-store"),
        instead="artifacts are shown by MLflow's page: --mlflow-port",
    )
    s3_bucket: str = setting(
        "mlflow-artifacts",
        kinds.BUCKET,
        "Bucket that holds the artifacts",
        tasks=UP,
        compose=True,
        only=("server", "s3"),
        instead="a bucket needs a store: --object-store=external with S3_ENDPOINT",
    )
    s3_endpoint: str = setting(
        "",
        optional(kinds.ENDPOINT, ""),
        "Endpoint of your own object store, with OBJECT_STORE=external",
        only=("server", "s3"),
    )
    s3_region: str = setting("us-east-1", kinds.REGION, "Region of the bucket", compose=True, only=("server", "s3"))
    s3_access_key: str = setting(
        "",
        kinds.ACCESS_KEY,
        "Access key of the object store: your own with OBJECT_STORE=external, otherwise generated when empty",
        only=("server", "s3"),
    )
    s3_secret_key: str = setting(
        "",
        kinds.key(8),
        "Secret key of the object store: your own with OBJECT_STORE=external, otherwise generated when empty",
        secret=True,
        only=("server", "s3"),
    )
