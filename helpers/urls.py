"""Names and addresses of the services, as browsers and clients reach them."""

from __future__ import annotations

from helpers.project.deployment import Deployment
from helpers.settings import Settings

START_PAGE = "/start"  # of the MLflow server: docker/mlflow/trackbed_mlflow/start_page
TRAINING_PAGE = "#/experiments?workflowType=machine_learning"  # else MLflow opens among what is for language models


def public_names(deployment: Deployment) -> tuple[str, ...]:
    """Every host name a browser or client may use for the tracking server."""
    settings = deployment.settings
    names = ["localhost", "127.0.0.1", "[::1]", "mlflow"]
    bound = "" if deployment.is_public else settings.bind_address  # one loopback address for each person, say
    names += [name for name in (settings.domain, settings.public_address, bound) if name and name not in names]
    return tuple(names)


def public_name(settings: Settings) -> str:
    """What the gateway is called from outside, "" while that is not known."""
    return settings.domain or settings.public_address


def public_url(settings: Settings, service: str) -> str:
    """Where a service is reached through the gateway. Only with PUBLIC=true, and for services that it publishes."""
    port = {
        "mlflow": settings.mlflow_port,
        "jupyter": settings.jupyter_port,
        "store": settings.s3_console_port,
        "s3": settings.s3_port,
    }[service]
    return f"https://{public_name(settings)}:{port}"


def allowed_hosts(deployment: Deployment) -> str:
    """MLFLOW_SERVER_ALLOWED_HOSTS: each name alone (ports 80, 443) and with any port (a tunnel may end anywhere)."""
    entries = []
    for name in public_names(deployment):
        # patterns are fnmatch's, where a bare [ opens a character class
        entries += [name, name.replace("[", "[[]") + ":*"]
    return ",".join(entries)


def cors_origins(deployment: Deployment) -> str:
    """MLFLOW_SERVER_CORS_ALLOWED_ORIGINS: the UI's own origins, from the same list as the hosts.

    No ``scheme://*`` and no lone ``*``: each entry names a host. localhost is always allowed by MLflow itself.
    """
    scheme, port = "https" if deployment.is_public else "http", deployment.settings.mlflow_port
    return ",".join(f"{scheme}://{name}:{port}" for name in public_names(deployment))


def local_host(settings: Settings) -> str:
    """What a browser or client on this machine (or at the end of a tunnel) is told: the bind address itself.

    Not localhost: that may be ::1 too, where any account of the machine can listen and take the link's token.
    """
    return settings.bind_address


def browser_url(deployment: Deployment) -> str:
    """MLflow as the user's browser reaches it: directly on this machine, or through the printed ``ssh -L`` line."""
    settings = deployment.settings
    if deployment.notebook_only:
        return settings.tracking_uri
    if deployment.is_public:
        return public_url(settings, "mlflow")
    return f"http://{local_host(settings)}:{settings.mlflow_port}"


def s3_browser_url(deployment: Deployment) -> str:
    """The S3 API as the user's browser reaches it: the store's console asks it from there, not from the server."""
    settings = deployment.settings
    return public_url(settings, "s3") if deployment.is_public else f"http://{local_host(settings)}:{settings.s3_port}"
