"""The notebook's container, which Compose does not make: the machine's GPUs and the user's data set are in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import IO, Any

from helpers import commands, digests, site_network
from helpers.engines import jupyterlab, notebook_image, notebook_spec, shared
from helpers.engines.docker import container_options
from helpers.engines.docker.client import LABEL
from helpers.engines.docker.deployment import DockerComponent, DockerDeployment
from helpers.engines.docker.devices import Devices
from helpers.engines.notebook_image import NotebookImage
from helpers.errors import TrackbedError
from helpers.gpu import placeholders
from helpers.machine import notebook_memory
from helpers.services import JUPYTER, ExecResult, Mount, ProgressReporter, ServiceSpec, State
from helpers.settings import DEFAULT

ENDED_FIRST = (State.RESTARTING, State.UNHEALTHY)  # a start stops such containers before it goes on


class NotebookContainer(DockerComponent):
    """JupyterLab as a container of the engine's API."""

    def __init__(self, deployment: DockerDeployment, devices: Devices) -> None:
        super().__init__(deployment)
        self.devices = devices

    @cached_property
    def image(self) -> NotebookImage:
        """The notebook's image for this machine's GPUs."""
        return notebook_image.choose(self.settings, self.devices.accelerator)

    @cached_property
    def spec(self) -> ServiceSpec:
        """The service as data."""
        given = self.deployment.site_network.reachable_from_containers().environment(
            site_network.inside(self.settings), self.settings.jupyter_env
        )
        if self.deployment.certificates:
            given |= site_network.trust(f"/run/secrets/{jupyterlab.CERTIFICATES}")
        spec = notebook_spec.container_spec(
            self.deployment, self.devices.accelerator, self.image.name, self._data_mount(), given
        )
        if spec.memory:
            return spec
        foreign = self.devices.accelerator.foreign
        return replace(spec, memory=placeholders.MEMORY.word if foreign else notebook_memory())

    def forget(self) -> None:
        """What the service was read from has changed."""
        self.__dict__.pop("spec", None)

    def _data_mount(self) -> Mount | None:
        """The data set, read-only; None where the default's volume is not there. Raises for a named one that is not."""
        name = self.settings.data_volume
        if folder := shared.data_folder(name, self.host):
            return Mount("bind", folder, notebook_spec.DATA, read_only=True)
        if name and self.api.volumes([name]):
            return Mount("volume", name, notebook_spec.DATA, read_only=True, options="nocopy")
        if self._data_named and name:
            raise TrackbedError(
                f"DATA_VOLUME={name}: there is no volume of that name",
                f"`invoke data.add food11 --from=SOURCE --data-volume={name}` makes and fills it, or unset DATA_VOLUME",
            )
        return None

    @property
    def _data_named(self) -> bool:
        """Whether somebody asked for data sets: the default's volume may be there for another project."""
        return self.settings.origin("DATA_VOLUME") != DEFAULT

    def empty_data(self) -> str:
        """The data set that was asked for, where there is nothing in it; else ""."""
        for mount in self.spec.mounts if self._data_named else ():
            if mount.target == notebook_spec.DATA and self._is_empty(mount):
                return mount.source
        return ""

    def _is_empty(self, mount: Mount) -> bool:
        if mount.kind == "bind":
            return self.host.is_empty(mount.source)
        return self.api.volume_is_empty(mount.source, self.image.name)

    @property
    def labels(self) -> list[str]:
        """Those that find it: of all containers only the notebook's has the project's own label."""
        return [f"{LABEL}.project={self.settings.project}"]

    def networks_exist(self) -> bool:
        return all(map(self.api.network_exists, self.spec.networks))

    def _digest(self) -> str:
        """Changes with anything that the container is created from."""
        image = self.api.image(self.spec.image)
        return digests.digest(self.spec, image["id"] if image else "", self.deployment.secrets_digest())

    @property
    def is_current(self) -> bool:
        """Whether there is one that was created as planned now, and that a start lets go on."""
        expected = self._digest()
        return any(
            container.labels.get(f"{LABEL}.config") == expected and container.state not in ENDED_FIRST
            for container in self.api.containers(self.labels)
        )

    def start(self, progress: ProgressReporter) -> None:
        """It runs as planned: nothing when it does already, else a container that stopped, else a new one."""
        spec, expected = self.spec, self._digest()
        for container in self.api.containers(self.labels):
            if container.labels.get(f"{LABEL}.config") == expected:
                if container.state not in (State.EXITED, State.STARTING) and (container.ports or not spec.ports):
                    return
                if self._begin(container.id, spec, progress):
                    return
            progress.service(JUPYTER, "recreating")
            self.api.stop(container.id, spec.stop_grace)
            self.api.remove(container.id)
        labels = {
            f"{LABEL}.project": self.settings.project,
            f"{LABEL}.service": JUPYTER,
            f"{LABEL}.instance": self.project.state.instance,
            f"{LABEL}.config": expected,
            f"{LABEL}.gpu": str(self.devices.accelerator),
        }
        networks = {network: [JUPYTER] for network in spec.networks}
        created = self.api.create(spec.container, self._arguments(spec, labels), networks)
        if not self._begin(created, spec, progress):
            self.api.remove(created)
            lower = replace(spec, ulimits={})
            self.api.start(self.api.create(spec.container, self._arguments(lower, labels), networks))

    def _arguments(self, spec: ServiceSpec, labels: Mapping[str, str]) -> dict[str, Any]:
        config, host = container_options.config_and_host(spec)
        return {**config, "labels": dict(labels), "host_config": self.api.host_config(**host)}

    def _begin(self, container: str, spec: ServiceSpec, progress: ProgressReporter) -> bool:
        """Start it; False when this engine may not raise the limits that it asks for (a GPU works with lower ones)."""
        try:
            self.api.start(container)
        except TrackbedError as error:
            if not spec.ulimits or "setting rlimit" not in error.message:
                raise
            # without root, or in a container itself
            progress.step(f"this engine may not raise {' and '.join(spec.ulimits)}: the notebook goes without")
            return False
        return True

    def stop(self, progress: ProgressReporter, drain: int) -> None:
        """Before the services: Compose cannot remove a network that it is attached to."""
        for container in self.api.containers(self.labels):
            progress.service(JUPYTER, "stopping")
            self.api.stop(container.id, min(drain, 10))
            self.api.remove(container.id)
            progress.service(JUPYTER, "stopped")

    def one_shot(self, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None, timeout: float) -> ExecResult:
        """A command in a fresh copy, without its network's names and without its GPU."""
        spec = self.spec
        command = ["docker", "run", "--rm", "-i", "--user", spec.user, "--entrypoint", argv[0]]
        for mount in spec.mounts:
            command += container_options.mount_words(mount)
        for name, value in spec.environment.items():
            command += container_options.variable(name, value)
        return commands.run(
            [*command, spec.image, *argv[1:]],
            stdin,
            timeout,
            limited=True,
            env={**os.environ, **container_options.passwords(spec)},
        )
