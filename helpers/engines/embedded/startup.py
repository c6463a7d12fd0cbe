"""Bringing the services up: files, the database, supervisor, in this order."""

from __future__ import annotations

import contextlib
import grp
import os

from helpers import machine_failures, safe_files
from helpers.engines import shared
from helpers.engines.embedded.app_files import AppFiles
from helpers.engines.embedded.deployment import EmbeddedComponent, EmbeddedDeployment
from helpers.engines.embedded.environments import Environments
from helpers.engines.embedded.inspection import Inspection
from helpers.engines.embedded.postgres import Database
from helpers.engines.embedded.processes import Processes
from helpers.engines.embedded.service_commands import ServiceCommands
from helpers.engines.embedded.specs import Specs
from helpers.engines.embedded.workspace import Workspace
from helpers.errors import TrackbedError
from helpers.project.credentials import JUPYTER_TOKEN
from helpers.service_accounts import SERVER
from helpers.services import JUPYTER, MLFLOW, POSTGRES, ProgressReporter, StartReport
from helpers.shell_words import account, as_root

STOP_SECONDS = 40  # for running requests, before processes that need another group


class Startup(EmbeddedComponent):
    def __init__(
        self,
        deployment: EmbeddedDeployment,
        environments: Environments,
        specs: Specs,
        processes: Processes,
        commands: ServiceCommands,
        inspection: Inspection,
        database: Database,
    ) -> None:
        super().__init__(deployment)
        self.environments, self.specs, self.processes = environments, specs, processes
        self.commands, self.inspection, self.database = commands, inspection, database
        self.files, self.workspace = AppFiles(deployment), Workspace(deployment)

    def prepare(self, progress: ProgressReporter) -> tuple[str, ...]:
        """Make the folders and the environments; gives the names of those that were made."""
        if self.layout.earlier:
            self.processes.end_orphans(progress, 60, "stopping what an earlier version started")
        self.layout.make(progress)
        return self.environments.make(progress)

    def start(self, progress: ProgressReporter) -> StartReport:
        before = {status.name: status.identity for status in self.inspection.statuses(False) if status.up}
        self.layout.make(progress)
        self._check_nodes()
        self._renew_groups(progress)
        self._mend_byte_code(progress)
        self.workspace.make()
        if not self.processes.supervisor.running():
            self.processes.end_notebook()  # first: all at once, also what hides that it belongs here
            self.processes.end_orphans(progress, 30)
        if JUPYTER_TOKEN in self.project.replaced:  # what the notebook started aside would read the new one
            self.processes.halt(JUPYTER, progress)
            self.processes.end_notebook()
        self.files.put()
        self.environments.make_packages()
        if POSTGRES in self.deployment.services:
            self.database.prepare(progress)
            self.files.put_database_access()
            self.database.unlock(progress)
        progress.step("starting the processes")
        with shared.interruptible():
            self._run_programs(progress)
        self.environments.remove_outdated()
        self.files.remove_others()
        after = self.inspection.statuses(False)
        report = shared.report(before, after)
        for status in after:
            progress.service(status.name, "starting" if status.name in report.changed else "ready")
        return report

    def _run_programs(self, progress: ProgressReporter) -> None:
        supervisor, supervisord = self.processes.supervisor, self.environments.supervisord
        has_database = POSTGRES in self.deployment.services
        if has_database and not self.database.has_roles:
            # the server must not be connected while its role is replaced
            supervisor.apply([p for p in self.specs.programs() if p.name != MLFLOW], supervisord)
            self.database.ensure_roles(progress)
        supervisor.apply(self.specs.programs(), supervisord)
        if has_database:
            self.database.ensure_roles(progress)
            self._ensure_bucket()

    def _check_nodes(self) -> None:
        """The user of the notebook may open its GPU. Raises TrackbedError with the group that is missing."""
        if self.layout.as_root:
            return  # the notebook's account is given the groups
        for path in self.deployment.accelerator.nodes:
            if not os.access(path, os.R_OK | os.W_OK):
                group = str(os.stat(path).st_gid)
                with contextlib.suppress(KeyError):
                    group = grp.getgrgid(int(group)).gr_name
                raise TrackbedError(
                    f"this user may not open {path}, it belongs to the group {group}",
                    f"{as_root(f'usermod -aG {group} {account()}')}, then log in again; or use --gpu=none",
                )

    def lacks_groups(self) -> bool:
        """Whether the supervisor is from before this user's login into the GPU's group: it hands on those of then."""
        if self.layout.as_root:
            return False
        groups = {int(group) for group in self.deployment.accelerator.groups} & set(os.getgroups())
        return not self.processes.supervisor.has_groups(groups)

    def _renew_groups(self, progress: ProgressReporter) -> None:
        if self.lacks_groups():
            progress.step("restarting the processes, which need the GPU's group")
            self.processes.stop(progress, STOP_SECONDS)

    def _mend_byte_code(self, progress: ProgressReporter) -> None:
        """Remove the byte code of a service that could not read it: a full disk cuts off what is written."""
        for service, folder in ((MLFLOW, self.folder / "pycache"), (JUPYTER, self.folder / "jupyter" / "pycache")):
            if not os.path.lexists(folder):
                continue
            damaged = any(map(machine_failures.BYTE_CODE.search, self.processes.logs(service, 40)))
            if damaged and service in [status.name for status in self.inspection.statuses(False) if status.up]:
                continue
            if damaged and safe_files.remove(folder):
                progress.step(f"removing damaged byte code of {service}")
                if service == MLFLOW:
                    account = self.layout.accounts.get(SERVER)
                    safe_files.give_folder(folder, account.pw_uid, account.pw_gid, 0o700)

    def _ensure_bucket(self) -> None:
        """The bucket of an external store exists; the server would only find out at the first artifact."""
        if self.deployment.object_store != "external":
            return
        done = self.commands.run(MLFLOW, ("trackbed-mlflow", "bucket"))
        if done.code:
            lines = [line.removeprefix("trackbed: ") for line in done.stderr.strip().splitlines()] or ["no message"]
            fix = "check S3_ENDPOINT, S3_BUCKET and the keys; then type `invoke up`"
            raise TrackbedError(lines[-1], fix, tuple(lines[:-1]))
