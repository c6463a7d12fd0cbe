"""Refusing to touch what has a project's name and belongs to another."""

from __future__ import annotations

import os
import re

from helpers.engines.docker.client import LABEL
from helpers.engines.docker.containers import Containers
from helpers.engines.docker.deployment import DockerDeployment
from helpers.errors import TrackbedError
from helpers.project import access
from helpers.suggestions import shown


def check(deployment: DockerDeployment, containers: Containers) -> None:
    """Refuse to touch containers or volumes that have this project's name and belong to another."""
    _check_compose_projects(deployment, containers)
    _check_containers(deployment)
    _check_volumes(deployment)


def _check_compose_projects(deployment: DockerDeployment, containers: Containers) -> None:
    project, others = deployment.settings.project, containers.foreign()
    if others:
        names = ", ".join(c.name for c in others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        where = shown(others[0].labels.get("com.docker.compose.project.working_dir", ""), 200)
        raise TrackbedError(
            f"another Compose project is called {project} too{f', in {where}' if where else ''}: "
            f"its containers {names} are not Trackbed's, and nothing was done to them",
            "choose another name with --project=NAME (and other ports)",
        )


def _check_containers(deployment: DockerDeployment) -> None:
    project = deployment.settings.project
    expected = {f"{project}-{name}-1" for name in deployment.services} | {f"{project}-jupyter"}
    for container in deployment.api.containers():
        ours = (
            container.labels.get("com.docker.compose.project") == project
            or container.labels.get(f"{LABEL}.project") == project
        )
        if container.name in expected and not ours:
            raise TrackbedError(
                f"a container named {container.name} exists and is not Trackbed's (image {container.image})",
                f"`docker rm -f {container.name}` if it may go, or choose another name with --project=NAME",
            )


def _check_volumes(deployment: DockerDeployment) -> None:
    instance = deployment.project.state.instance
    for name, labels in deployment.api.volumes(v.name for v in deployment.volumes()).items():
        owner = labels.get(f"{LABEL}.instance")
        if owner == instance:
            continue
        if owner is None:
            raise TrackbedError(
                f"a volume named {name} exists and is not Trackbed's",
                f"`docker volume rm {name}` if it may go, or choose another name with --project=NAME",
            )
        raise TrackbedError(
            f"volume {name} belongs to another Trackbed project (instance {owner[:8]}, this one is {instance[:8]})",
            f"if it is another person's: `invoke up --project={_own_name(deployment)}`; "
            "if it is yours and its state folder was lost: `invoke up --adopt`",
        )


def _own_name(deployment: DockerDeployment) -> str:
    """A name for a project of who runs this, on an engine that several people share."""
    person = re.sub(r"[^a-z0-9_-]+", "-", access.person().lower()).strip("-_") or str(os.getuid())
    return f"{deployment.settings.project[: 39 - len(person[:20])]}-{person[:20]}"
