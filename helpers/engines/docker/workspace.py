"""The notebook's folder on the machine that runs the containers, and the accounts that it belongs to there."""

from __future__ import annotations

import shlex

from helpers import notebook, safe_files
from helpers.engines import commands
from helpers.engines.docker.container import NotebookContainer
from helpers.engines.docker.deployment import Collaborator, Deployment


class Workspace(Collaborator):
    """Making it, and saying why the notebook could not write to it."""

    def __init__(self, deployment: Deployment, container: NotebookContainer) -> None:
        super().__init__(deployment)
        self.notebook = container

    def problem(self) -> tuple[str, str]:
        """Why the notebook could not write there, and what helps; "" for both where nothing shows."""
        place, uid = self.settings.workspace, notebook.workspace_owner(self.settings)
        if self.host.remote or not place.is_dir():
            return "", ""
        ids = self.deployment.ids
        outside = ids.outside(uid)
        if outside is None:
            return "", ""
        groups = () if ids.kind else tuple(map(int, self.notebook.devices.accelerator.groups))
        problem, fix = notebook.workspace_problem(place, outside, ids.outside(notebook.GID) or 0, groups)
        return problem, self.fix() if ids.kind == "rootless" else fix

    def fix(self) -> str:
        """What gives the notebook all of it."""
        place = self.settings.workspace
        uid = notebook.workspace_owner(self.settings)
        if self.host.remote:
            return f"there: chown -hR {uid}:{notebook.GID} {shlex.quote(str(place))}   (or name another in WORKSPACE)"
        ids = self.deployment.ids
        if ids.kind == "rootless":  # its containers' accounts have numbers that only its own root can give
            return (f"docker run --rm --user 0 --entrypoint chown -v {shlex.quote(f'{place}:/w')} "
                    f"{self.notebook.image_settings.jupyter_image} -hR {uid}:{notebook.GID} /w   (or name another "
                    "folder in WORKSPACE)")
        outside = [ids.outside(uid), ids.outside(notebook.GID)]
        if None in outside or safe_files.owner(place) == outside[0]:
            return notebook.other_folder(place)
        return notebook.give_line(place, *map(int, filter(None, outside)))

    def make(self) -> None:
        """Make the notebook's folder; the settings then name the owner that it has."""
        place, ids = self.settings.workspace, self.deployment.ids
        if not ids.kind or self.host.remote:
            self.deployment.settings = self.host.make_workspace(self.settings)
        elif not place.is_dir():
            uid, gid = ids.outside(notebook.UID), ids.outside(notebook.GID)
            notebook.make_workspace(place, uid or 0, gid or 0, callers=False)
            if ids.kind == "rootless":
                commands.run(["docker", "run", "--rm", "--pull", "never", "--network", "none", "--user", "0",
                              "--entrypoint", "chown", "-v", f"{place}:/w", self.notebook.image_settings.jupyter_image,
                              f"{notebook.UID}:{notebook.GID}", "/w"], None, 120)
        if ids.kind and not self.host.remote:
            self.deployment.take_inner_owner()
