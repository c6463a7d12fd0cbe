"""Docker's SDK behind one door: containers, images, volumes and networks as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helpers.engines.docker.client.connection import DEFAULT_SOCKET, LABEL, socket_error
from helpers.engines.docker.client.containers import Container, Containers
from helpers.engines.docker.client.images import Images
from helpers.engines.docker.client.networks import Networks
from helpers.engines.docker.client.volumes import FileEntry, Volumes

__all__ = ["DEFAULT_SOCKET", "LABEL", "Container", "DockerApi", "FileEntry", "machine", "socket_error"]


class DockerApi(Containers, Images, Volumes, Networks):
    """All that is asked of an engine, over one connection."""


def machine(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What the engine's ``info`` tells of its machine, by the fields of HostFacts. ``name``: where it tells none."""
    return {
        "hostname": str(info.get("Name", name)),
        "architecture": str(info.get("Architecture", "")),
        "cpus": int(info.get("NCPU", 0)),
        "memory": int(info.get("MemTotal", 0)),
    }
