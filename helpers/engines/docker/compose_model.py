"""The Compose files as data: each service, the volumes that go with them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from helpers import services
from helpers.engines.container_secrets import UIDS
from helpers.project import workspace_folder
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
    ServiceSpec,
    Volume,
)

PORT_NAMES = {9000: "s3", 9001: "console", 8000: "http", 8888: "http", 8080: "acme-http", 8443: "acme-https"}
HEALTHY = {"service_started": "started", "service_healthy": "healthy", "service_completed_successfully": "done"}


def port_name(service: str, target: int) -> str:
    """What a port of a container is called; "" for one that means nothing to us."""
    return JUPYTER if (service, target) == (GATEWAY, 8888) else PORT_NAMES.get(target, "")


def published(service: str, known: Mapping[str, Any]) -> tuple[Port, ...]:
    """The ports that a service's container publishes while it runs. ``known``: all that the engine tells of it; {} for
    one that has gone.

    A published port of 0 is one that the engine chooses.
    """
    result = []
    for inside, published in ((known.get("HostConfig") or {}).get("PortBindings") or {}).items():
        target = int(str(inside).partition("/")[0])
        for one in published or ():
            name = port_name(service, target) or "http"
            result.append(Port(name, target, int(one.get("HostPort") or 0), str(one.get("HostIp") or "0.0.0.0")))
    return tuple(result)


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
