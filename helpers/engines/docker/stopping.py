"""Stopping the services, also where another Compose project has their name."""

from __future__ import annotations

from helpers.engines.docker.client import Container
from helpers.engines.docker.compose import ComposeProject
from helpers.engines.docker.containers import SERVICE, Containers
from helpers.engines.docker.deployment import DockerDeployment
from helpers.engines.docker.network_guard import NetworkGuard
from helpers.services import Sink, State


def stop(containers: Containers, compose: ComposeProject, guard: NetworkGuard, drain: int, sink: Sink) -> None:
    """Stop and remove the services and their networks; ``drain``: seconds for requests that run."""
    deployment = containers.deployment
    if others := containers.foreign():
        _stop_ours(deployment, containers, others, drain, sink)
    else:
        sink.step("stopping the services")
        compose.down(drain, lambda: _kill_rest(deployment, containers, sink))
    guard.remove()
    deployment.api.remove_networks(deployment.project, deployment.network_names)


def _stop_ours(
    deployment: DockerDeployment, containers: Containers, others: list[Container], drain: int, sink: Sink
) -> None:
    """Without Compose, which would take down all that has the project's name."""
    names = ", ".join(c.name for c in others)
    sink.step(f"leaving the containers of another Compose project of this name: {names}")
    order = {name: i for i, name in enumerate(deployment.services)}
    for container in sorted(containers.listed(), reverse=True, key=lambda c: order.get(c.labels.get(SERVICE, ""), -1)):
        deployment.api.stop(container.id, drain)
        deployment.api.remove(container.id)


def _kill_rest(deployment: DockerDeployment, containers: Containers, sink: Sink) -> None:
    """What did not stop in all the time it was given."""
    for container in containers.listed():
        if container.state is not State.EXITED:
            sink.step(f"ending {container.name}, which does not stop")
            deployment.api.kill(container.id)
