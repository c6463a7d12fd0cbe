"""The server's environment: what every engine needs is set, and what must not reach MLflow is dropped."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from trackbed_mlflow.errors import MISCONFIGURED, Stop

APP = "trackbed"  # the name of app.create among MLflow's plugins
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # S3 servers other than AWS refuse the checksum trailers that newer SDKs send by default.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    # 60 s without a byte end an attempt; botocore makes five of them, while a thread and a client wait
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "2",
    "PYTHONUNBUFFERED": "1",
}
# Read by MLflow itself: a Kubernetes Service named mlflow sets MLFLOW_PORT=tcp://..., a shell the others.
STRAY = (
    "MLFLOW_HOST",
    "MLFLOW_PORT",
    "MLFLOW_WORKERS",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT",
    # another prefix would be other addresses than edge/routes.py judges; MLflow would forward to the last
    "MLFLOW_STATIC_PREFIX",
    "_MLFLOW_STATIC_PREFIX",
    "MLFLOW_DEPLOYMENTS_TARGET",
)


def number(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise Stop(MISCONFIGURED, f"{name}={text}: a number from {low} to {high} is expected")
    return int(text)


def prepare(environment: MutableMapping[str, str]) -> None:
    """Set what every engine needs and drop what must not reach the server."""
    from trackbed_mlflow import jobs

    for name in STRAY:
        environment.pop(name, None)
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
    jobs.prepare(environment)


def server_arguments(environment: Mapping[str, str]) -> list[str]:
    """The arguments of `mlflow`, after "server" in pairs. Store addresses stay in the environment, not in argv."""
    return [
        "server",
        "--app-name",
        APP,
        "--host",
        environment.get("TRACKBED_HOST") or "0.0.0.0",
        "--port",
        str(number(environment, "TRACKBED_PORT", 8000, 1, 65535)),
        "--workers",
        str(number(environment, "TRACKBED_WORKERS", 2, 1, 256)),
    ]
