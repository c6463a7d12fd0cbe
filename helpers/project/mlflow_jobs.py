"""Whether MLflow's jobs run beside its server."""

from __future__ import annotations

from helpers.settings import Settings


def enabled(settings: Settings) -> bool:
    """Whether MLflow's jobs run beside its server; behind the gateway it has no way out to a model."""
    return settings.mlflow_jobs == "on" and not settings.public and not settings.tracking_uri


def summary(settings: Settings) -> str:
    """Whether they run, and what that means; "" where there is no server of ours."""
    if settings.tracking_uri:
        return ""
    if not enabled(settings):
        return "off: " + (
            "with PUBLIC=true the server has no way out to models"
            if settings.public
            else "`invoke up --mlflow-jobs=on` offers judges, evaluations and automatic scoring on the server"
        )
    where = "any address" if settings.mlflow_jobs_models == "any" else "public https addresses"
    return f"on: judges, evaluations and automatic scoring on the server, with models at {where}"
