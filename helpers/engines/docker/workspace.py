"""The notebook's folder on the machine that runs the containers, and the accounts that it belongs to there."""

from __future__ import annotations

import shlex

from helpers import safe_files
from helpers.engines.docker import mapped_workspace
from helpers.engines.docker.deployment import DockerComponent, DockerDeployment
from helpers.engines.docker.notebook_container import NotebookContainer
from helpers.machine import existing
from helpers.project import workspace_folder

CLOSED_FIX = (
    "name a folder on a disk of this machine in WORKSPACE: a file server with root_squash, or a FUSE mount without "
    "allow_other, keeps the engine's root out; or use --engine=embedded"
)


class Workspace(DockerComponent):
    """Making it, and saying why the notebook could not write to it."""

    def __init__(self, deployment: DockerDeployment, container: NotebookContainer) -> None:
        super().__init__(deployment)
        self.notebook = container

    def problem(self) -> tuple[str, str]:
        """Why the notebook could not write there, and what helps; "" for both where nothing shows."""
        place, uid = self.deployment.workspace, self.deployment.owner
        if self.host.remote:
            return "", ""
        if closed := self.deployment.api.closed(str(existing(place))):
            return f"the Docker engine may not enter WORKSPACE {place}: {closed}", CLOSED_FIX
        if not place.is_dir():
            return "", ""
        if self.deployment.ids.kind:
            return mapped_workspace.problem(place, self.deployment.ids, uid, self.notebook.image.name)
        groups = tuple(map(int, self.notebook.devices.accelerator.groups))
        return workspace_folder.problem(place, uid, workspace_folder.GID, groups)

    def is_closed(self) -> bool:
        """Whether an earlier release left it to the person alone, where `make` lets the notebook's account in."""
        ids = self.deployment.ids
        return bool(ids.kind) and not self.host.remote and mapped_workspace.is_closed(self.deployment.workspace, ids)

    def fix(self) -> str:
        """What gives the notebook all of it."""
        place, uid = self.deployment.workspace, self.deployment.owner
        if self.host.remote:
            line = f"chown -hR {uid}:{workspace_folder.GID} {shlex.quote(str(place))}"
            return f"there: {line}   (or name another in WORKSPACE)"
        if self.deployment.ids.kind:
            return mapped_workspace.fix(place, self.deployment.ids, uid, self.notebook.image.name)
        return (
            workspace_folder.other_folder(place)
            if safe_files.owner(place) == uid
            else workspace_folder.give_line(place, uid, workspace_folder.GID)
        )

    def make(self) -> None:
        """Make the notebook's folder; the notebook then runs as the owner that it has."""
        if self.deployment.ids.kind and not self.host.remote:
            mapped_workspace.make(self.deployment.workspace, self.deployment.ids)
            self.deployment.take_inner_owner()
        else:
            self.host.make_workspace(self.deployment.workspace)
            self.deployment.find_workspace()
