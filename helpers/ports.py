"""Which ports a project publishes: its settings', and where a default is taken at the first start, the next free."""

from __future__ import annotations

from collections.abc import Iterable

from helpers import addresses
from helpers.engines.host import Host
from helpers.services import Port, ServiceStatus
from helpers.settings import BY_NAME, DEFAULT, Settings

SETTINGS = {
    "mlflow:http": "MLFLOW_PORT",
    "jupyter:http": "JUPYTER_PORT",
    "store:s3": "S3_PORT",
    "store:console": "S3_CONSOLE_PORT",
    "gateway:http": "MLFLOW_PORT",
    "gateway:jupyter": "JUPYTER_PORT",
    "gateway:s3": "S3_PORT",
    "gateway:console": "S3_CONSOLE_PORT",
    "gateway:acme-http": "HTTP_PORT",
    "gateway:acme-https": "HTTPS_PORT",
}


def of(settings: Settings) -> set[int]:
    """Every port that the settings name, also those of services that this engine does not publish."""
    return {getattr(settings, name.lower()) for name in SETTINGS.values()}


def free_instead(
    settings: Settings, planned: Iterable[tuple[str, Port]], statuses: Iterable[ServiceStatus], host: Host
) -> tuple[dict[str, str], str]:
    """The next free port for each default that somebody else holds, by its setting's name, and one line about them.

    The user's own choices stay as they are, and so do the ports of what runs already.
    """
    listed = [(service, port) for service, port in planned if port.published]
    ours = {p.published for status in statuses for p in status.ports}
    taken = of(settings) | {port.published for _, port in listed}
    chosen: dict[str, str] = {}
    replaced = []
    for service, port in listed:
        name = SETTINGS.get(f"{service}:{port.name}", "")
        if (
            not name
            or settings.origin(name) != DEFAULT
            or port.published in ours
            or host.is_free(port.address, port.published)
        ):
            continue
        free = addresses.next_free(port.address, port.published + 1, taken, host.is_free)
        taken.add(free)
        chosen[name] = str(free)
        replaced.append(f"{free} for {name} ({port.published} is taken by {host.holder(port.published)})")
    if not chosen:
        return {}, ""
    defaults = " ".join(f"{BY_NAME[name].option}={BY_NAME[name].default}" for name in chosen)
    return chosen, f"ports: {', '.join(replaced)}; kept from now on, until `invoke up` with {defaults}"
