"""The notebook's workspace: a folder of the user's that the notebook's account has to write to."""

from __future__ import annotations

import os

from helpers import safe_files
from helpers.engines.embedded.deployment import EmbeddedComponent
from helpers.project import workspace_folder
from helpers.service_accounts import NOTEBOOK
from helpers.services import ProgressReporter


class Workspace(EmbeddedComponent):
    def problem(self) -> tuple[str, str]:
        """Why the notebook could not write to it, and what to type; "" twice where nothing shows."""
        workspace, account = self.deployment.workspace, self.layout.accounts.find(NOTEBOOK)
        if account is None or not workspace.is_dir():
            return "", ""
        if self.layout.as_root and self.layout.former_notebook not in (-1, account.pw_uid):
            return "", ""  # it is given over before the notebook starts
        groups = os.getgroups() if account.pw_uid == os.geteuid() else os.getgrouplist(account.pw_name, account.pw_gid)
        groups += map(int, self.deployment.accelerator.groups) if self.layout.as_root else ()
        return workspace_folder.problem(workspace, account.pw_uid, account.pw_gid, groups)

    def fix(self) -> str:
        """What to type so that the notebook may write to all of it."""
        workspace, account = self.deployment.workspace, self.layout.accounts.find(NOTEBOOK)
        if account is None or safe_files.owner(workspace) == account.pw_uid:
            return workspace_folder.other_folder(workspace)
        return workspace_folder.give_line(workspace, account.pw_uid, account.pw_gid)

    def take(self, progress: ProgressReporter) -> None:
        """Give one that another engine's notebook wrote to the notebook's account."""
        if not self.layout.as_root:
            return
        self.layout.make(progress)
        workspace, own = self.deployment.workspace, self.layout.accounts.get(NOTEBOOK)
        if (owner := safe_files.owner(workspace)) in (-1, 0, own.pw_uid):
            return
        given = workspace_folder.give_to(workspace, owner, own.pw_uid, own.pw_gid)
        progress.step(
            f"the workspace belongs to the notebook's account {own.pw_name} now, it was uid {owner}'s "
            f"({given.changed} files and folders)"
        )

    def make(self) -> None:
        """Make it where it is missing. Raises TrackbedError for one that the notebook could not write."""
        own = self.layout.accounts.get(NOTEBOOK)
        workspace_folder.make(self.deployment.workspace, own.pw_uid, own.pw_gid, callers=False, private=True)
