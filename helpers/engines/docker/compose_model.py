"""The Compose files as data: each service, the volumes and the secret files that go with them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from helpers import services
from helpers.engines import database_roles, jupyterlab, shared
from helpers.project import remote_tracking, server_secrets, workspace_folder
from helpers.project.credentials import GATEWAY_KEY, MLFLOW_TOKEN, STORE_SYNC_TOKEN
from helpers.project.deployment import Deployment
from helpers.services import (
    BUCKET,
    GATEWAY,
    JUPYTER,
    MLFLOW,
    POSTGRES,
    STORE,
    Health,
    Mount,
    Port,
    SecretFile,
    ServiceSpec,
    Volume,
)

UIDS = {POSTGRES: (999, 999), STORE: (10002, 10002), MLFLOW: (10001, 10001), GATEWAY: (10003, 10003)}
PORT_NAMES = {9000: "s3", 9001: "console", 8000: "http", 8888: "http", 8080: "acme-http", 8443: "acme-https"}
HEALTHY = {"service_started": "started", "service_healthy": "healthy", "service_completed_successfully": "done"}


def port_name(service: str, target: int) -> str:
    """What a port of a container is called; "" for one that means nothing to us."""
    return JUPYTER if (service, target) == (GATEWAY, 8888) else PORT_NAMES.get(target, "")


def service_spec(name: str, model: Mapping[str, Any], project: str) -> ServiceSpec:
    """A service of the resolved Compose model as data."""
    service = model["services"][name]
    volumes = model["volumes"]
    mounts = [
        Mount(
            "volume",
            volumes[v["source"]]["name"],
            v["target"],
            bool(v.get("read_only")),
            "nocopy" if v.get("volume", {}).get("nocopy") else "",
        )
        for v in service.get("volumes", [])
        if v["type"] == "volume"
    ]
    for entry in service.get("tmpfs", []):
        target, _, options = entry.partition(":")
        mounts.append(Mount("tmpfs", "", target, options=options))
    limit = int(service.get("mem_limit") or 0)
    networks = model["networks"]
    return ServiceSpec(
        name=name,
        title=services.TITLES[name],
        container=f"{project}-{name}-1",
        hostname=name,
        image=service["image"],
        # Compose doubles what it will not interpolate again
        command=tuple(word.replace("$$", "$") for word in service.get("command") or ()),
        entrypoint=tuple(service.get("entrypoint") or ()),
        environment={k: v or "" for k, v in (service.get("environment") or {}).items()},
        ports=tuple(
            Port(port_name(name, p["target"]), p["target"], int(p["published"]), p.get("host_ip", ""))
            for p in service.get("ports", [])
        ),
        mounts=tuple(mounts),
        networks=tuple(networks[n]["name"] for n in service.get("networks", {})),
        user=service.get("user", ""),
        read_only=bool(service.get("read_only")),
        cap_drop=tuple(service.get("cap_drop", ())),
        security_opt=tuple(service.get("security_opt", ())),
        health=health(service.get("healthcheck")),
        memory=f"{limit >> 20}m" if limit else "",
        pids=int(service.get("pids_limit") or 0),
        shm_size=str(service.get("shm_size", "")),
        restart=service.get("restart", ""),
        stop_signal=service.get("stop_signal", ""),
        stop_grace=int(seconds(service.get("stop_grace_period", "10s"))),
        depends_on={k: HEALTHY[v["condition"]] for k, v in (service.get("depends_on") or {}).items()},
        one_shot=name == BUCKET,
    )


def health(check: Mapping[str, Any] | None) -> Health | None:
    """A Compose health check as data; None for a service without one."""
    if not check:
        return None
    test = check["test"]
    return Health(
        argv=tuple(test[1:]) if test[0] == "CMD" else ("sh", "-c", *test[1:]),
        interval=seconds(check.get("interval", "10s")),
        timeout=seconds(check.get("timeout", "5s")),
        retries=int(check.get("retries", 5)),
        start_period=seconds(check.get("start_period", "0s")),
        start_interval=seconds(check.get("start_interval", "5s")),
    )


def seconds(text: str | float) -> float:
    """A duration as Compose writes it (1m30s, 500ms), in seconds."""
    if isinstance(text, int | float):
        return float(text)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(n) * units[u] for n, u in re.findall(r"([\d.]+)(ms|s|m|h)", text))


def volumes(deployment: Deployment) -> tuple[Volume, ...]:
    """Every volume of this profile with the numeric owner of its service."""
    return (_notebook_volume(deployment),) if deployment.notebook_only else every_volume(deployment)


def _notebook_volume(deployment: Deployment) -> Volume:
    name = f"{deployment.settings.project}_secrets-jupyter"
    return Volume(name, deployment.owner, workspace_folder.GID, secret=True)


def every_volume(deployment: Deployment) -> tuple[Volume, ...]:
    """Those of the full profile, also where only the notebook is wanted now."""
    project, object_store = deployment.settings.project, deployment.object_store
    listed = [
        Volume(f"{project}_postgres", *UIDS[POSTGRES]),
        Volume(f"{project}_mlflow-tmp", *UIDS[MLFLOW]),
        Volume(f"{project}_secrets-postgres", *UIDS[POSTGRES], secret=True),
        Volume(f"{project}_secrets-mlflow", *UIDS[MLFLOW], secret=True),
        _notebook_volume(deployment),
    ]
    if deployment.is_public:
        listed += [
            Volume(f"{project}_gateway", *UIDS[GATEWAY]),
            Volume(f"{project}_secrets-gateway", *UIDS[GATEWAY], secret=True),
        ]
    if object_store != "external":
        listed.insert(1, Volume(f"{project}_{object_store}", *UIDS[STORE]))
        listed.append(Volume(f"{project}_secrets-store", *UIDS[STORE], secret=True))
    return tuple(listed)


def secret_files(deployment: Deployment) -> tuple[SecretFile, ...]:
    """The files in the secrets volumes, each for one service."""
    settings, object_store = deployment.settings, deployment.object_store
    project, asks = settings.project, deployment.project.asks

    def secret(service: str, path: str, template: str, names: tuple[str, ...], uid: int, gid: int) -> SecretFile:
        return SecretFile(service, f"{project}_secrets-{service}", path, template, names, uid, gid)

    token = secret(
        JUPYTER,
        "jupyter-token",
        "{JUPYTER_TOKEN}",
        ("JUPYTER_TOKEN",),  # read without strip
        deployment.owner,
        workspace_folder.GID,
    )
    cookie = secret(JUPYTER, jupyterlab.COOKIE_FILE, jupyterlab.COOKIE, ("JUPYTER_TOKEN",), token.uid, token.gid)
    if deployment.notebook_only:
        return (token, cookie, *remote_tracking.secret_files(settings, token.volume, token.uid, token.gid))
    listed = [
        secret(POSTGRES, "postgres-password", "{POSTGRES_PASSWORD}", ("POSTGRES_PASSWORD",), *UIDS[POSTGRES]),
        # not secret itself; run once by the image's entry script, when it has made the database
        secret(POSTGRES, "roles.sql", database_roles.settings("/run/secrets/postgres-password"), (), *UIDS[POSTGRES]),
        # libpq ignores a passfile that others may read: 0400 and the right owner
        secret(MLFLOW, "pgpass", "*:*:*:mlflow:{POSTGRES_PASSWORD}\n", ("POSTGRES_PASSWORD",), *UIDS[MLFLOW]),
        secret(MLFLOW, "aws-credentials", shared.AWS_CREDENTIALS, ("S3_ACCESS_KEY", "S3_SECRET_KEY"), *UIDS[MLFLOW]),
        *server_secrets.files(f"{project}_secrets-{MLFLOW}", *UIDS[MLFLOW], asks),
        token,
        cookie,
        *server_secrets.notebook_files(token.volume, token.uid, token.gid, asks),
    ]
    if deployment.is_public:
        key = ("gateway-key", f"{{{GATEWAY_KEY}}}\n", (GATEWAY_KEY,))
        listed += [
            secret(MLFLOW, *key, *UIDS[MLFLOW]),
            secret(GATEWAY, *key, *UIDS[GATEWAY]),
            secret(GATEWAY, server_secrets.ACCESS_FILE, f"{{{MLFLOW_TOKEN}}}", (MLFLOW_TOKEN,), *UIDS[GATEWAY]),
            # nobody yet: the engine puts today's users and the CA's root in place of this
            secret(GATEWAY, "users", "end\n", (), *UIDS[GATEWAY]),
        ]
    if object_store == "versitygw":
        sync = ("store-sync-token", f"{{{STORE_SYNC_TOKEN}}}", (STORE_SYNC_TOKEN,))
        listed += [secret(MLFLOW, *sync, *UIDS[MLFLOW]), secret(STORE, *sync, *UIDS[STORE])]
    if object_store != "external":
        listed += [
            secret(STORE, "access-key", "{S3_ACCESS_KEY}", ("S3_ACCESS_KEY",), *UIDS[STORE]),
            secret(STORE, "secret-key", "{S3_SECRET_KEY}", ("S3_SECRET_KEY",), *UIDS[STORE]),
        ]
    return tuple(listed)
