"""The machine that runs the services: this one. What differs for another one is a subclass in its engine's folder."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import psutil

from helpers import addresses, machine
from helpers.gpu import detect, probe
from helpers.gpu.detect import Machine
from helpers.project import workspace_folder
from helpers.services import Address, Port
from helpers.settings import Settings


@dataclass(frozen=True)
class HostFacts:
    """The machine that runs the services (not always the one that runs the toolkit). Sizes in bytes."""

    hostname: str
    architecture: str
    cpus: int
    memory: int
    memory_available: int
    disk_free: int
    disk_path: str
    remote: bool = False
    machine: Machine = field(default_factory=Machine)

    @property
    def knows_disk(self) -> bool:
        """Whether ``disk_free`` was found out, which nobody can for some machines."""
        return bool(self.disk_free) or not self.remote


def local_facts(disk: Path) -> HostFacts:
    """This machine, with the free space of the file system that holds ``disk``."""
    memory = psutil.virtual_memory()
    return HostFacts(
        hostname=socket.gethostname(),
        architecture=platform.machine(),
        cpus=os.cpu_count() or 1,
        memory=memory.total,
        memory_available=memory.available,
        disk_free=machine.free_space(disk),
        disk_path=str(disk),
        machine=detect.machine(probe.look()),
    )


class LocalHost:
    """This machine."""

    remote: ClassVar[bool] = False
    url = ""
    name = ""
    tunnel = ""

    def workspace(self, settings: Settings) -> tuple[Path, int | None]:
        """The notebook's folder, and the uid that the notebook runs as; None: whom the folder here belongs to."""
        return settings.workspace, None

    def make_workspace(self, workspace: Path) -> None:
        """Make the notebook's folder where it is missing. Raises TrackbedError for one it could not write."""
        workspace_folder.make(workspace, workspace_folder.owner(workspace), private=True)

    def reach(self, port: Port) -> Address:
        """Where this process reaches a published port."""
        return Address(port.address, port.published)

    def is_free(self, address: str, port: int) -> bool:
        """Whether a service could listen there."""
        return addresses.is_free(address, port)

    def holder(self, port: int) -> str:
        """Who listens on a port."""
        return str(addresses.holder(port))

    def uplink(self) -> tuple[str, int]:
        """The interface of the default route and its MTU; ("", 0) for none."""
        return addresses.uplink()

    def is_folder(self, path: str) -> bool:
        return Path(path).is_dir()

    def is_empty(self, folder: str) -> bool:
        return not any(Path(folder).iterdir())

    def facts(self, info: Mapping[str, Any], machine: Machine) -> HostFacts:
        """The machine, as the engine and its own files tell. For a remote one only."""
        raise NotImplementedError

    def look(self) -> dict[str, Any] | None:
        """What it has for GPUs; None where it has no Python to tell. For a remote one only."""
        raise NotImplementedError

    def specifications(self, folders: Iterable[str]) -> tuple[str, ...]:
        """The texts of the CDI specifications in these folders. For a remote one only."""
        raise NotImplementedError


Host = LocalHost  # whichever it is
LOCAL = LocalHost()
