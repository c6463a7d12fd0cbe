"""The database: made, of the right major, its lock and its roles."""

from __future__ import annotations

import os
import re
from pathlib import Path

from helpers import commands, database_failures, database_settings, process_table, safe_files, waiting
from helpers.engines import database_roles, shared
from helpers.engines.embedded import stale_locks
from helpers.engines.embedded.accounts import NOTHING
from helpers.engines.embedded.deployment import EmbeddedComponent, EmbeddedDeployment
from helpers.engines.embedded.environments import OWN, Environments
from helpers.engines.embedded.postgres_wheels import MAJOR
from helpers.engines.embedded.processes import Processes
from helpers.engines.embedded.service_commands import ServiceCommands
from helpers.errors import ServiceFailed, TrackbedError
from helpers.project.state import sync_folder
from helpers.service_accounts import DATABASE
from helpers.services import MLFLOW, POSTGRES, ExecResult, ProgressReporter, State

FAILED_STARTS = 3  # after which it is not waited for any longer
LEFT_SECONDS = 10.0  # in which what a killed PostgreSQL leaves behind ends by itself


class Database(EmbeddedComponent):
    def __init__(
        self,
        deployment: EmbeddedDeployment,
        environments: Environments,
        commands: ServiceCommands,
        processes: Processes,
    ) -> None:
        super().__init__(deployment)
        self.environments, self.commands, self.processes = environments, commands, processes

    @property
    def data_folder(self) -> Path:
        return self.deployment.database_folder

    @property
    def has_roles(self) -> bool:
        """Whether its roles were made once, so that a server may be connected while PostgreSQL starts."""
        return os.path.lexists(self.data_folder / database_roles.READY)

    def prepare(self, progress: ProgressReporter) -> None:
        """Before PostgreSQL starts: a database of its major, and no lock of one that is gone. Raises TrackbedError."""
        if not self.version(self.data_folder):
            self._check_major()
            progress.step("creating the database")
            self._make()
        elif self.environments.venv(OWN).outdated():
            progress.step(f"{self._server_version()} goes on with the existing database")

    def version(self, folder: Path) -> str:
        """The PostgreSQL major of a database's folder, "" without one; read by the database's own account."""
        return self._says("cat", str(folder / "PG_VERSION")).strip()

    def _server_version(self) -> str:
        """As ``postgres --version`` says it: "PostgreSQL 18.6"."""
        said = re.search(r"PostgreSQL[^)]*\) (\S+)", self._says(self.environments.program("postgres"), "--version"))
        return f"PostgreSQL {said[1]}" if said else "PostgreSQL"

    def _says(self, *argv: str) -> str:
        """What a command of the database's account prints; "" when it fails."""
        who = self.deployment.identity(POSTGRES)
        done = commands.attempt(argv, 30, limited=True, env=NOTHING["env"], cwd="/", **who)
        return done.stdout if done.code == 0 else ""

    def _check_major(self) -> None:
        """Refuse to begin an empty database beside one of another PostgreSQL major."""
        for folder in self.layout.databases():
            major = self.version(folder)
            if major not in ("", MAJOR):
                raise shared.other_major(
                    major,
                    f"this clone has PostgreSQL {MAJOR}",
                    "with the clone you had: `invoke backup`, `invoke down --delete-data`; "
                    "then here: `invoke restore FILE`",
                )

    def _make(self) -> None:
        """initdb into a folder beside the final one; only a complete database gets the final name."""
        fresh = self.data_folder.with_name(self.data_folder.name + ".new")
        if not safe_files.is_empty(self.data_folder):
            raise TrackbedError(
                f"{self.data_folder} holds files, but no PG_VERSION that the database's account can read",
                "if it is the database, give it back to that account (chown -R), or "
                "restore a backup; if not, move it away; then type `invoke up`",
            )
        account = self.layout.accounts.get(DATABASE)
        if not safe_files.remove(fresh):
            raise TrackbedError(f"{fresh} could not be removed", "remove it as its owner")
        safe_files.give_folder(fresh, account.pw_uid, account.pw_gid, 0o700)
        done = commands.run(
            self.environments.initdb(fresh),
            None,
            120,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": str(self.layout.accounts.home(DATABASE))},
            cwd=self.folder,
            **self.deployment.identity(POSTGRES),
        )
        if done.code:
            known = database_failures.explain(done.stderr.splitlines())
            reason, fix = known or (commands.last_line(done.stderr), "see `invoke doctor`")
            raise ServiceFailed(POSTGRES, f"the database could not be created: {reason}", fix)
        fresh.rename(self.data_folder)  # initdb has synced what it made
        sync_folder(self.data_folder.parent)

    def unlock(self, progress: ProgressReporter) -> None:
        """Take away the lock of a PostgreSQL that is gone. One that is there is never touched: TrackbedError."""
        lock = self.data_folder / stale_locks.FILE
        if self.processes.pid(POSTGRES) or not os.path.lexists(lock):
            return
        waiting.until(lambda: not stale_locks.workers(self.data_folder), LEFT_SECONDS, 0.2)
        if left := stale_locks.workers(self.data_folder):
            raise TrackbedError(
                f"another PostgreSQL (process {left[0]}) works on {self.data_folder}",
                f"stop it (kill -INT {left[0]}), then type `invoke up`",
            )
        if left is None:
            return  # PostgreSQL itself has to tell
        pid = stale_locks.holder(self.commands.run(POSTGRES, ("cat", str(lock))).stdout)
        if not pid or process_table.alive(pid):
            progress.step(
                "removing the lock of a PostgreSQL that is gone"
                + (f"; process {pid} is another program now" if pid else "")
            )
        self.commands.run(POSTGRES, ("rm", "-f", str(lock), str(self.layout.sockets / ".s.PGSQL.5432.lock")))

    def ensure_roles(self, progress: ProgressReporter) -> None:
        """Once PostgreSQL answers: both roles and the active database are there. Bounded; raises ServiceFailed."""
        self._wait()

        def statements(role: str, database: str, text: str) -> ExecResult:
            return self.commands.psql(role, database, text, timeout=600)

        active = self.project.state.active["database"]
        if created := database_roles.ensure(
            statements, active, stop_server=lambda: self.processes.halt(MLFLOW, progress)
        ):
            progress.step(created)
            self.processes.resume(MLFLOW, progress)
        if not self.has_roles:
            self.commands.run(POSTGRES, ("touch", str(self.data_folder / database_roles.READY)))

    def _wait(self) -> None:
        """PostgreSQL takes connections. Bounded; raises ServiceFailed when it has ended."""
        ready = ("pg_isready", "-t", "3", "-U", database_settings.ADMIN, "-d", database_roles.MAINTENANCE)
        answer = ExecResult(1, "", "")
        failed: set[int] = set()  # starts; supervisord itself goes on trying

        def answers_or_has_ended() -> bool:
            nonlocal answer
            answer = self.commands.run(POSTGRES, ready)
            process = self.processes.supervisor.states().get(POSTGRES)
            if process and process.state is State.RESTARTING:
                failed.add(process.started)
            return answer.code == 0 or process is None or process.state is State.EXITED or len(failed) >= FAILED_STARTS

        waiting.until(answers_or_has_ended, min(60, self.settings.ready_timeout), 0.1)
        if answer.code == 0:
            return
        lines = tuple(self.processes.logs(POSTGRES, 15))
        known = database_failures.explain(lines)
        reason, fix = known or (
            f"PostgreSQL does not answer: {commands.last_line(answer.stdout)}",
            "`invoke logs postgres` shows more",
        )
        raise ServiceFailed(POSTGRES, reason, fix, lines)
