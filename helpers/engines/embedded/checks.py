"""What `invoke doctor` looks at on the embedded engine and nowhere else."""

from __future__ import annotations

import os

from helpers.engines.checks import Checks, closed_workspace
from helpers.engines.embedded import accounts
from helpers.findings import Finding, Level
from helpers.machine import existing


class EmbeddedChecks(Checks):
    """Its programs and the notebook's folder are this machine's own."""

    def programs(self) -> list[Finding]:
        return self._rights() + self._executable()

    def _rights(self) -> list[Finding]:
        """Each service of root's runs as an account of its own; a container's root may not be able to do that."""
        if os.geteuid() != 0:
            return []
        if missing := accounts.missing_capabilities():
            listed = ", ".join(f"CAP_{name}" for name in missing)
            given = " ".join(f"--cap-add={name}" for name in missing)
            why, fix = f"root lacks {listed} here", f"`docker run {given}` gives a container what is missing"
        elif why := accounts.becoming_fails():
            why, fix = f"root cannot become another user here ({why})", "give the user namespace more ids (/etc/subuid)"
        else:
            return []
        detail = f"each service runs as a user of its own, but {why}"
        return [Finding(Level.ERROR, "permissions", detail, f"run as a normal user, or {fix}")]

    def _executable(self) -> list[Finding]:
        """Programs run from the state folder; a file system mounted noexec does not let them."""
        folder = existing(self.engine.settings.folder)
        try:
            if not os.statvfs(folder).f_flag & os.ST_NOEXEC:
                return []
        except (OSError, AttributeError):
            return []
        return [
            Finding(
                Level.ERROR,
                "permissions",
                f"programs may not run on the file system of STATE_DIR, {folder} is mounted noexec",
                "name a folder on another disk: --state-dir=FOLDER (findmnt shows the options)",
            )
        ]

    def workspace(self, others: bool) -> list[Finding]:
        return closed_workspace(self.engine.deployment.workspace, others)
