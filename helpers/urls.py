"""Names and addresses of the services, as browsers and clients reach them."""

from __future__ import annotations

from helpers.settings import Settings

TRAINING_PAGE = "#/experiments?workflowType=machine_learning"  # else MLflow opens among what is for language models


def public_names(settings: Settings) -> tuple[str, ...]:
    """Every host name a browser or client may use for the tracking server."""
    names = ["localhost", "127.0.0.1", "[::1]", "mlflow"]
    bound = "" if settings.public else settings.bind_address  # one loopback address for each person, say
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


def allowed_hosts(settings: Settings) -> str:
    """MLFLOW_SERVER_ALLOWED_HOSTS: each name alone (ports 80, 443) and with any port (a tunnel may end anywhere)."""
    entries = []
    for name in public_names(settings):
        # patterns are fnmatch's, where a bare [ opens a character class
        entries += [name, name.replace("[", "[[]") + ":*"]
    return ",".join(entries)


def cors_origins(settings: Settings) -> str:
    """MLFLOW_SERVER_CORS_ALLOWED_ORIGINS: the UI's own origins, from the same list as the hosts.

    No ``scheme://*`` and no lone ``*``: each entry names a host. localhost is always allowed by MLflow itself.
    """
    scheme = "https" if settings.public else "http"
    return ",".join(f"{scheme}://{name}:{settings.mlflow_port}" for name in public_names(settings))


def local_host(settings: Settings) -> str:
    """What a browser or client on this machine (or at the end of a tunnel) is told: the bind address itself.

    Not localhost: that may be ::1 too, where any account of the machine can listen and take the link's token.
    """
    return settings.bind_address


def browser_url(settings: Settings) -> str:
    """MLflow as the user's browser reaches it: directly on this machine, or through the printed ``ssh -L`` line."""
    if settings.tracking_uri:
        return settings.tracking_uri
    if settings.public:
        return public_url(settings, "mlflow")
    return f"http://{local_host(settings)}:{settings.mlflow_port}"


def s3_browser_url(settings: Settings) -> str:
    """The S3 API as the user's browser reaches it: the store's console asks it from there, not from the server."""
    return public_url(settings, "s3") if settings.public else f"http://{local_host(settings)}:{settings.s3_port}"
