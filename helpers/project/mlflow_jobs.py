"""Whether MLflow's jobs run beside its server."""

from __future__ import annotations

from helpers.project.deployment import Deployment
from helpers.services import MLFLOW


def enabled(deployment: Deployment) -> bool:
    """Whether MLflow's jobs run beside its server; behind the gateway it has no way out to a model."""
    return MLFLOW in deployment.services and deployment.settings.mlflow_jobs == "on" and not deployment.is_public


def summary(deployment: Deployment) -> str:
    """Whether they run, and what that means; "" where there is no server of ours."""
    if MLFLOW not in deployment.services:
        return ""
    if not enabled(deployment):
        return "off: " + (
            "with PUBLIC=true the server has no way out to models"
            if deployment.is_public
            else "`invoke up --mlflow-jobs=on` offers judges, evaluations and automatic scoring on the server"
        )
    where = "any address" if deployment.settings.mlflow_jobs_models == "any" else "public https addresses"
    return f"on: judges, evaluations and automatic scoring on the server, with models at {where}"
