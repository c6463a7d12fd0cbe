"""PostgreSQL in its pod: are its roles, its active database and its password today's."""

from __future__ import annotations

from helpers.engines import database_roles, shared
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.pod_commands import PodCommands
from helpers.services import POSTGRES, ExecResult, ProgressReporter

PASSWORD_FILE = "/run/secrets/postgres-password"


class Database(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, commands: PodCommands) -> None:
        super().__init__(deployment)
        self.commands = commands

    def settle(self, progress: ProgressReporter) -> None:
        """Both roles and the active database are there, and the server's role has today's password."""
        active = self.project.state.active["database"]
        if created := database_roles.ensure(self._psql, active, PASSWORD_FILE):
            progress.step(created)
        if database_roles.match_password(self._run, self._psql, active, PASSWORD_FILE):
            progress.step("the existing database has the current password now")

    def _run(self, argv: tuple[str, ...]) -> ExecResult:
        return self.commands.run(POSTGRES, argv, None, 120)

    def _psql(self, role: str, name: str, statements: str) -> ExecResult:
        return self.commands.run(POSTGRES, shared.psql(role, name), statements.encode(), 600)
