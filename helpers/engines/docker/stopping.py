"""Stopping the services, also where another Compose project has their name."""

from __future__ import annotations

from helpers.engines.docker.client import Container
from helpers.engines.docker.compose import ComposeProject
from helpers.engines.docker.containers import SERVICE, Containers
from helpers.engines.docker.deployment import DockerDeployment
from helpers.engines.docker.network_guard import NetworkGuard
from helpers.services import ProgressReporter, State


def stop(
    containers: Containers, compose: ComposeProject, guard: NetworkGuard, drain: int, progress: ProgressReporter
) -> None:
    """Stop and remove the services and their networks; ``drain``: seconds for requests that run."""
    deployment = containers.deployment
    if others := containers.foreign():
        _stop_ours(deployment, containers, others, drain, progress)
    else:
        progress.step("stopping the services")
        compose.down(drain, lambda: _kill_rest(deployment, containers, progress))
    guard.remove()
    deployment.api.remove_networks(deployment.settings.project, deployment.network_names)


def _stop_ours(
    deployment: DockerDeployment,
    containers: Containers,
    others: list[Container],
    drain: int,
    progress: ProgressReporter,
) -> None:
    """Without Compose, which would take down all that has the project's name."""
    names = ", ".join(c.name for c in others)
    progress.step(f"leaving the containers of another Compose project of this name: {names}")
    order = {name: i for i, name in enumerate(deployment.services)}
    for container in sorted(containers.listed(), reverse=True, key=lambda c: order.get(c.labels.get(SERVICE, ""), -1)):
        deployment.api.stop(container.id, drain)
        deployment.api.remove(container.id)


def _kill_rest(deployment: DockerDeployment, containers: Containers, progress: ProgressReporter) -> None:
    """What did not stop in all the time it was given."""
    for container in containers.listed():
        if container.state is not State.EXITED:
            progress.step(f"ending {container.name}, which does not stop")
            deployment.api.kill(container.id)
