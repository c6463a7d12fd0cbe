"""What the Compose files of a project are, and what is filled into them. No secret among it."""

from __future__ import annotations

import os

from helpers import database_settings, site_network, urls
from helpers.engines import gateway_spec, jupyterlab
from helpers.engines.docker import client_config, images
from helpers.engines.docker.deployment import DockerDeployment
from helpers.errors import TrackbedError
from helpers.project import mlflow_jobs
from helpers.settings import PREFIX, TABLE


def files(deployment: DockerDeployment) -> tuple[str, ...]:
    """The Compose files, relative to the clone: the base and one overlay per choice."""
    settings, object_store = deployment.settings, deployment.object_store
    overlays = [object_store]
    if deployment.is_public:
        own_store = object_store != "external"
        chosen = {
            "public": True,
            "public-store": own_store,
            "public-console": deployment.console_is_public,
            "public-s3": deployment.s3_is_public,
            "public-acme": settings.acme,
        }
        overlays += [name for name, expected in chosen.items() if expected]
    return ("docker/compose.yaml", *(f"docker/compose.{name}.yaml" for name in overlays))


def _image(deployment: DockerDeployment, key: str) -> str:
    """The image of postgres, minio or versitygw, by the name that it has here; as it is where no service has it."""
    reference = images.reference(key, deployment.settings)
    if key not in ("postgres", deployment.object_store):
        return reference
    try:
        return images.local(deployment.api, reference)
    except TrackbedError:
        return reference  # no engine answers: a plan is printed all the same


def _declared(deployment: DockerDeployment) -> dict[str, str]:
    """What settings alone decide, as their declarations say; the gateway's with PUBLIC=true only."""
    return {
        f"{PREFIX}{row.name}": str(getattr(deployment.settings, row.field))
        for row in TABLE
        if row.compose and (deployment.is_public or "public" not in row.only)
    }


def variables(deployment: DockerDeployment) -> dict[str, str]:
    """What the Compose files interpolate; no secret among it. Also left in the clone for use by hand."""
    settings, active = deployment.settings, deployment.project.state.active
    own_store = deployment.object_store != "external"
    _, mtu = deployment.host.uplink()
    return {
        **_declared(deployment),
        "TRACKBED_S3_ENDPOINT": "http://store:9000" if own_store else settings.s3_endpoint,
        "TRACKBED_S3_BROWSER_URL": urls.s3_browser_url(deployment) if own_store else "",
        "TRACKBED_POSTGRES_IMAGE": _image(deployment, "postgres"),
        "TRACKBED_MINIO_IMAGE": _image(deployment, "minio"),
        "TRACKBED_VERSITYGW_IMAGE": _image(deployment, "versitygw"),
        "TRACKBED_POOL_SIZE": str(database_settings.pool(settings.mlflow_workers)[0]),
        "TRACKBED_POOL_OVERFLOW": str(database_settings.pool(settings.mlflow_workers)[1]),
        "TRACKBED_MAX_CONNECTIONS": str(
            database_settings.max_connections(settings.mlflow_workers, mlflow_jobs.enabled(deployment))
        ),
        "TRACKBED_ALLOWED_HOSTS": urls.allowed_hosts(deployment),
        "TRACKBED_CORS_ORIGINS": urls.cors_origins(deployment),
        "TRACKBED_STORE_NETWORK": jupyterlab.store_network(deployment),
        "TRACKBED_DATABASE": active["database"],
        "TRACKBED_ARTIFACT_PREFIX": active["prefix"],
        "TRACKBED_SECRETS": deployment.project.credentials_digest(),
        # Compose hands the proxies of Docker's config.json to every container: they must not stand between ours
        "TRACKBED_NO_PROXY": site_network.exceptions(client_config.proxies(os.environ).get(site_network.EXCEPT, "")),
        "TRACKBED_MTU": str(min(mtu or 1500, 1500)),
        # not by the names in the service, which nobody's shell is to get: a user may take them for the settings
        "TRACKBED_SERVER_JOBS": "on" if mlflow_jobs.enabled(deployment) else "off",
        "TRACKBED_SERVER_JOBS_MODELS": settings.mlflow_jobs_models,
        **(gateway_variables(deployment) if deployment.is_public else {}),
    }


def gateway_variables(deployment: DockerDeployment) -> dict[str, str]:
    """The part of them for PUBLIC=true."""
    return {
        **{f"{PREFIX}{name}": value for name, value in gateway_spec.environment(deployment).items()},
        "TRACKBED_GATEWAY_ADDRESS": deployment.settings.gateway_address,
        "TRACKBED_JUPYTER_PORT": str(deployment.settings.jupyter_port),
    }
