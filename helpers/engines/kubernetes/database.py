"""PostgreSQL in its pod: are its roles, its active database and its password today's."""

from __future__ import annotations

from helpers import commands, database_settings, waiting
from helpers.engines import database_roles, shared
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.pod_commands import PodCommands
from helpers.errors import ServiceFailed, WrongProject
from helpers.findings import Finding, Level
from helpers.services import POSTGRES, ExecResult, ProgressReporter

CLAIM = "data-postgres-0"
SERVER = "server"  # in the state: where the active database is, if that is a PostgreSQL of the user's
FEWER = "raise its max_connections, or lower MLFLOW_WORKERS or MLFLOW_REPLICAS"
ANSWER_SECONDS = 60.0  # for a server of the user's, and the pod that asks it
STARTING = "the database system is starting up"
PASSWORD_FILE = "/run/secrets/postgres-password"


class Database(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, commands: PodCommands) -> None:
        super().__init__(deployment)
        self.commands = commands

    def check(self) -> None:
        """Refuse to begin with another server than the one that has the project's data. Raises WrongProject."""
        chosen, kept = self.deployment.external_database, self.project.state.active.get(SERVER, "")
        if self.deployment.notebook_only or chosen == kept:
            return
        if not kept and self.kubectl.find("persistentvolumeclaim", CLAIM) is None:
            return
        where = kept or f"volume claim {CLAIM} in {self.deployment.where}"
        raise WrongProject(
            f"this project's database is in {where}, and DATABASE_HOST (from {self.settings.origin('DATABASE_HOST')}) "
            f"means {chosen or 'one of its own'}",
            "to take the data along: `invoke backup`, `invoke down --delete-data`, and with the other `invoke restore`",
        )

    def keep(self) -> None:
        """From now on it has the project's data."""
        if chosen := self.deployment.external_database:
            self.project.state.active[SERVER] = chosen

    def leave(self) -> tuple[str, ...]:
        """What to tell once the project's data are deleted: nothing on a server of the user's is."""
        self.project.state.active.pop(SERVER, None)
        active, where = self.project.state.active["database"], self.deployment.external_database
        return (f"the database {active} stays in the PostgreSQL at {where}: `DROP DATABASE {active}` there",) * bool(
            where
        )

    def settle(self, progress: ProgressReporter) -> None:
        """Both roles and the active database are there, and the server's role has today's password."""
        active = self.project.state.active["database"]
        if self.deployment.external_database:
            self._look(active, progress)
            return
        if created := database_roles.ensure(self._psql, active, PASSWORD_FILE):
            progress.step(created)
        if database_roles.match_password(self._run, self._psql, active, PASSWORD_FILE):
            progress.step("the existing database has the current password now")

    def _look(self, active: str, progress: ProgressReporter) -> None:
        """A server of the user's lets the role in, has the active database, and enough connections."""
        where = self.deployment.external_database
        done = self._once_it_answers(active)
        if done.code and not _is_psqls(done):
            said = commands.last_line(done.stderr, str(done.code))
            raise ServiceFailed(POSTGRES, f"its pod does not run: {said}", "`invoke status` shows why")
        if done.code:
            raise ServiceFailed(
                POSTGRES,
                f"the PostgreSQL at {where} refuses: {commands.last_line(done.stderr, str(done.code))}",
                "there, as its administrator: `CREATE ROLE mlflow LOGIN CREATEDB PASSWORD '...'`, `CREATE DATABASE "
                f"{active} OWNER mlflow`; the password belongs into .env as POSTGRES_PASSWORD",
            )
        if line := self.deployment.connections_problem(int(done.stdout.strip())):
            progress.step(f"warning: {line}; {FEWER}")

    def _once_it_answers(self, active: str) -> ExecResult:
        """The first answer that says something: its pod may have just begun, its server may be starting."""
        done = ExecResult(1, "", "")

        def look() -> bool:
            nonlocal done
            done = self._most_connections(active)
            return done.code == 0 or (_is_psqls(done) and "FATAL" in done.stderr and STARTING not in done.stderr)

        waiting.until(look, ANSWER_SECONDS, 1)
        return done

    def _most_connections(self, active: str) -> ExecResult:
        return self._psql(database_settings.USER, active, "SHOW max_connections;")

    def findings(self) -> list[Finding]:
        """How a server of the user's is, for `invoke doctor`; nothing for ours."""
        where = self.deployment.external_database
        if not where:
            return []
        done = self._most_connections(self.project.state.active["database"])
        if done.code:
            said = commands.last_line(done.stderr, str(done.code))
            return [Finding(Level.WARNING, "database", f"the PostgreSQL at {where} refuses: {said}", "`invoke up`")]
        if line := self.deployment.connections_problem(int(done.stdout.strip())):
            return [Finding(Level.WARNING, "database", line, FEWER)]
        return [Finding(Level.OK, "database", f"the PostgreSQL at {where}, which is yours")]

    def _run(self, argv: tuple[str, ...]) -> ExecResult:
        return self.commands.run(POSTGRES, argv, None, 120)

    def _psql(self, role: str, name: str, statements: str) -> ExecResult:
        return self.commands.run(POSTGRES, shared.psql(role, name), statements.encode(), 600)


def _is_psqls(done: ExecResult) -> bool:
    """Whether psql said it, not kubectl of a pod that is not there."""
    return "psql: " in done.stderr
