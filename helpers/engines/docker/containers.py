"""The containers of a project as they are now, and those of others that have its name."""

from __future__ import annotations

from helpers.engines.docker import compose_model
from helpers.engines.docker.client import LABEL, Container
from helpers.engines.docker.deployment import DockerComponent, DockerDeployment
from helpers.engines.docker.volumes import Volumes
from helpers.errors import TrackbedError
from helpers.services import BUCKET, GATEWAY, JUPYTER, Port, ServiceStatus, State

SERVICE = "com.docker.compose.service"


class Containers(DockerComponent):
    """Looking, and nothing else."""

    def __init__(self, deployment: DockerDeployment, volumes: Volumes) -> None:
        super().__init__(deployment)
        self.volumes = volumes

    def listed(self, service: str = "") -> list[Container]:
        """Ours, or those of one service. Another Compose project may have the same name: its containers have none of
        our volumes."""
        project = self.settings.project
        services, notebooks = list[Container](), list[Container]()
        if service != JUPYTER:
            labels = [f"com.docker.compose.project={project}", "com.docker.compose.oneoff=False"]
            services = self.api.containers([*labels, f"{SERVICE}={service}"] if service else labels)
        if service in ("", JUPYTER):
            notebooks = self.api.containers([f"{LABEL}.project={project}"])
        return [c for c in services if self._has_own_volumes(c)] + notebooks

    def _has_own_volumes(self, container: Container) -> bool:
        return not self.volumes.owned.isdisjoint(container.volumes)

    def foreign(self) -> list[Container]:
        """Containers of somebody else's Compose project that has this name."""
        listed = self.api.containers([f"com.docker.compose.project={self.settings.project}"])
        return [c for c in listed if not self._has_own_volumes(c)]

    def of(self, service: str) -> Container | None:
        """That of a service; None where it has none."""
        return next((one for one in self.listed(service) if _service(one) == service), None)

    def find(self, service: str) -> Container:
        """That of a service. Raises TrackbedError where it has none."""
        if container := self.of(service):
            return container
        raise TrackbedError(f"{service} has no container", "`invoke up` creates it")

    def statuses(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        """The state of every service, in the order of the plan."""
        result = {_service(container): container for container in self.listed()}
        names = self.deployment.services
        if GATEWAY in result and GATEWAY not in names:
            names = (*names, GATEWAY)  # of a time when the project was public; a start removes it
        return tuple(self._status(name, result.get(name), detail) for name in names)

    def ports(self, service: str) -> tuple[Port, ...]:
        """Those that a service publishes, without a look at its state: a start asks often."""
        container = self.of(service)
        return self._ports(service, container) if container else ()

    def _ports(self, name: str, container: Container) -> tuple[Port, ...]:
        if container.state is State.RESTARTING and not container.ports:
            # so Docker lists it, also while its next try listens on them
            return compose_model.published(name, self.api.details(container.id))
        return tuple(
            Port(compose_model.port_name(name, p.target), p.target, p.published, p.address) for p in container.ports
        )

    def _status(self, name: str, container: Container | None, detail: bool) -> ServiceStatus:
        if container is None:
            return ServiceStatus(name, State.MISSING)
        state = container.state
        if name == BUCKET and state is State.EXITED and container.exit_code == 0:
            state = State.DONE
        reason = ""
        if state in (State.EXITED, State.UNHEALTHY, State.RESTARTING):
            reason = self.api.reason(container.id)
        counted = detail and state in (State.READY, State.RUNNING) and self.deployment.limits_memory
        memory = self.api.memory(container.id) if counted else 0
        restarts = self.api.restarts(container.id) if state in (State.STARTING, State.RESTARTING) else 0
        return ServiceStatus(
            name,
            state,
            reason,
            container.exit_code,
            container.image,
            self._ports(name, container),
            memory,
            container.since,
            restarts,
            container.id,
            container.labels.get(f"{LABEL}.gpu", ""),
            container.image_id,
        )

    def port_owners(self) -> dict[int, str]:
        """Published ports of containers that are not ours, with the container's name."""
        project = self.settings.project
        return {
            p.published: f"container {c.name}"
            for c in self.api.containers()
            if project not in (c.labels.get("com.docker.compose.project"), c.labels.get(f"{LABEL}.project"))
            for p in c.ports
        }


def _service(container: Container) -> str:
    """Its name. What Compose did not create is the notebook, whatever else its labels say: they were others before."""
    return container.labels.get(SERVICE) or JUPYTER
