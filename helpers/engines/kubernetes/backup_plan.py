"""What a pod that makes a scheduled backup is told, as data. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from helpers import code_bundle
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.project.backup_runs import LAST_LOOKS
from helpers.services import JUPYTER

PROGRAM = "helpers.backups.in_cluster"
SETTINGS = (
    "s3_endpoint",
    "s3_bucket",
    "data_volume",
    "backup_workspace_exclude",
    "backup_workspace_largest",
)
# what it sends to the notebook (helpers/data/workspace_files.py)
SENT = tuple(
    f"helpers.data.{part}" for part in ("folder_walk", "workspace_parts", "workspace_restoring", "workspace_script")
)
LACKING = ("tenacity",)  # what it needs and MLflow's image does not have
PLAN, CERTIFICATES, TOKEN = "plan.json", "ca.crt", "jupyter-token"  # as PROGRAM reads them


def asks_the_notebook(deployment: KubernetesDeployment) -> bool:
    """Whether the pods read the notebook's files."""
    return deployment.settings.backup_workspace and JUPYTER in deployment.services


def code() -> bytes:
    """The modules that it runs, as a zip."""
    return code_bundle.bundle(PROGRAM, LACKING, SENT)


def lease_end(deployment: KubernetesDeployment) -> float:
    """In seconds since the epoch; 0 where the pods make no last backup."""
    ends = deployment.settings.lease_end if deployment.last_place else ""
    return datetime.fromisoformat(ends).timestamp() if ends and ends != "auto" else 0.0


def looks(deployment: KubernetesDeployment) -> str:
    """When a pod looks, as a CronJob has it: each hour, and more often where a lease ends."""
    assert deployment.scheduled is not None
    minute, often = deployment.scheduled.minute, round(LAST_LOOKS / 60)
    return f"{minute % often}-59/{often} * * * *" if lease_end(deployment) else f"{minute} * * * *"


def plan(deployment: KubernetesDeployment, images: Mapping[str, str]) -> dict[str, Any]:
    """What a pod is told, the keys of the bucket and the passphrase among it. The active database and prefix it has
    from MLflow's own ConfigMap."""
    schedule, settings, state = deployment.scheduled, deployment.settings, deployment.project.state
    assert schedule is not None
    return {
        "schedule": {**asdict(schedule), "environment": {}},
        "lease_end": lease_end(deployment),
        "last_place": deployment.last_place or schedule.place,
        "project": settings.project,
        "instance": state.instance,
        "engine": "kubernetes",
        "store": deployment.object_store,
        "settings": {name: getattr(settings, name) for name in SETTINGS},
        "workspace": str(deployment.workspace) if asks_the_notebook(deployment) else "",
        "remembered": dict(state.remembered),
        "versions": {f"image {service}": reference for service, reference in images.items()},
        "environment": deployment.proxies,
        "passphrase": settings.backup_passphrase,
        "access": {
            "endpoint": settings.backup_s3_endpoint,
            "region": settings.backup_s3_region,
            "key": settings.backup_s3_access_key,
            "secret": settings.backup_s3_secret_key,
        },
    }
