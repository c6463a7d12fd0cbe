"""The embedded engine: what the protocol asks for, from the modules beside this one.

No Docker: PostgreSQL from a wheel, MLflow and JupyterLab from the images' own locks, in venvs in the state folder,
under supervisor. As root each service runs as an account of its own (``layout``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, ClassVar

from helpers import addresses, safe_files, services
from helpers.bundles import Bundle, Packing
from helpers.engines import base, shared, streaming
from helpers.engines.embedded import bundled, script, systemd
from helpers.engines.embedded.checks import EmbeddedChecks
from helpers.engines.embedded.data_volume import DataVolume
from helpers.engines.embedded.deployment import EmbeddedDeployment, data_folder
from helpers.engines.embedded.environments import Environments
from helpers.engines.embedded.inspection import Inspection
from helpers.engines.embedded.postgres import Database
from helpers.engines.embedded.processes import Processes
from helpers.engines.embedded.service_commands import ServiceCommands
from helpers.engines.embedded.specs import Specs
from helpers.engines.embedded.startup import Startup
from helpers.engines.embedded.workspace import Workspace
from helpers.engines.host import LOCAL, Host, HostFacts
from helpers.errors import TrackbedError
from helpers.gpu.accelerator import Accelerator
from helpers.project.project import Project
from helpers.services import (
    JUPYTER,
    MLFLOW,
    Address,
    Availability,
    DataItem,
    Details,
    ExecResult,
    Hide,
    Plan,
    ProgressReporter,
    ServiceStatus,
    StartReport,
)
from helpers.settings import Settings


class EmbeddedEngine(base.Engine):
    """Services as supervised processes of this machine."""

    name: ClassVar[str] = "embedded"
    alternative: ClassVar[str] = "to run without Docker"
    lacks: ClassVar[str] = (
        "no S3 store (artifacts are files in the state folder), no network of its own for each service, "
        "no restart at boot"
    )
    deployment: EmbeddedDeployment

    def __init__(self, project: Project) -> None:
        self.project = project
        self.deployment = here = EmbeddedDeployment(project)
        self.layout = here.layout
        self.environments = Environments(here)
        self.specs = Specs(here, self.environments)
        self.processes = Processes(here)
        self.commands = ServiceCommands(here, self.environments, self.specs)
        self.inspection = Inspection(here, self.processes, self.commands)
        self.database = Database(here, self.environments, self.commands, self.processes)
        self.workspace = Workspace(here)
        self.startup = Startup(
            here, self.environments, self.specs, self.processes, self.commands, self.inspection, self.database
        )

    @property
    def settings(self) -> Settings:
        return self.deployment.settings

    @property
    def host(self) -> Host:
        return LOCAL

    # what there is

    def availability(self) -> Availability:
        if sys.platform not in ("linux", "darwin"):
            return Availability(False, False, "the embedded engine needs Linux or macOS", "on Windows, use WSL2")
        if sys.platform == "linux" and not _glibc():
            return Availability(
                False,
                False,
                "the embedded engine needs glibc (PostgreSQL comes as a wheel for it)",
                "use Docker on this distribution",
            )
        return Availability(True, True, "no Docker needed")

    def versions(self) -> Mapping[str, str]:
        return {"python": sys.version.split()[0], **self.environments.versions()}

    def host_facts(self) -> HostFacts:
        return self.deployment.host_facts()

    @property
    def accelerator(self) -> Accelerator:
        return self.deployment.accelerator

    def remarks(self) -> tuple[str, ...]:
        data = self.deployment.data_set()
        lines = shared.remarks(self.accelerator, data if data and self.host.is_empty(data) else "")
        if self.settings.jupyter_volumes:
            return (
                *lines,
                "warning: JUPYTER_VOLUMES is for Docker; this notebook sees the machine's folders as they are",
            )
        return lines

    def data_volume(self) -> DataVolume:
        return DataVolume(self.settings)

    def access_token(self) -> str:
        return self.project.access_token()

    # the plan

    def plan(self) -> Plan:
        return self.specs.plan(self.name)

    def script(self, plan: Plan) -> str:
        return script.processes(plan, self.deployment, self.environments)

    def fingerprint(self) -> str:
        return self.specs.digest()

    def unchanged(self) -> tuple[ServiceStatus, ...]:
        if not all(venv.present for venv in self.environments.required()):
            return ()  # what runs has them open still, and would not start again
        return shared.unchanged(self, self.project.state.applied)

    @property
    def workspace_inside(self) -> str:
        return str(self.deployment.workspace)

    def workspace_problem(self) -> tuple[str, str]:
        return self.workspace.problem()

    def workspace_fix(self) -> str:
        return self.workspace.fix()

    def take_workspace(self, progress: ProgressReporter) -> None:
        self.workspace.take(progress)

    # looking

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        return self.inspection.statuses(detail)

    def details(self, service: str, hide: Hide) -> Details:
        return self.inspection.details(service, self.plan, hide)

    def logs(self, service: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        return self.processes.logs(service, tail, follow)

    def open(self, service: str, port: str) -> AbstractContextManager[Address]:
        return self.inspection.open(service, port)

    # running commands

    def exec(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult:
        return self.commands.run(service, argv, stdin, timeout)

    def one_shot(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 600
    ) -> ExecResult:
        # a service is a process here: a fresh one with its environment needs nothing that runs
        return self.commands.run(service, argv, stdin, timeout)

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[streaming.Pipe]:
        return self.commands.pipe(service, argv)

    def unlisted(self) -> tuple[str, ...]:
        return ()  # a folder lists all

    # starting and stopping

    def prepare(self, progress: ProgressReporter) -> tuple[str, ...]:
        return self.startup.prepare(progress)

    def pack(self, into: Packing) -> None:
        self.environments.named = shared.for_bundle(self)
        bundled.pack(self.environments, sys.executable, into)

    def take_bundle(self, bundle: Bundle, progress: ProgressReporter) -> None:
        bundled.check(self.environments, bundle)
        self.environments.bundle = bundle

    def start(self, progress: ProgressReporter) -> StartReport:
        return self.startup.start(progress)

    def halt(self, service: str, progress: ProgressReporter) -> None:
        self.processes.halt(service, progress)

    def resume(self, service: str, progress: ProgressReporter) -> None:
        self.processes.resume(service, progress)

    def stop(self, progress: ProgressReporter, drain: int = 40) -> tuple[str, ...]:
        return self.processes.stop(progress, drain)

    # data

    def data(self) -> tuple[DataItem, ...]:
        folder = self.deployment.folder
        what = {
            "artifacts": "artifacts of all runs",
            self.deployment.database_folder.name: "database: experiments, runs, parameters, metrics, registered models",
            "venvs": "installed packages",
            "jupyter": "JupyterLab's settings, what you installed from notebooks",
        }
        return tuple(
            DataItem(str(folder / name), text) for name, text in what.items() if not safe_files.is_empty(folder / name)
        )

    def remove_data(self, progress: ProgressReporter, keep_workspace: bool = False) -> tuple[str, ...]:
        if self.processes.supervisor.running():
            raise TrackbedError("the project is still running", "`invoke down` first")
        progress.step(f"removing {self.deployment.folder}")
        for line in self.layout.remove():
            progress.step(line)
        return ()  # the workspace is a folder, which nothing deletes

    @classmethod
    def left_behind(cls, settings: Settings) -> Path | None:
        folder = data_folder(settings)
        return folder if folder.exists() else None

    # at boot

    def start_at_boot(self) -> tuple[str, ...]:
        return systemd.install(self.settings)

    @classmethod
    def stay_off_at_boot(cls, settings: Settings) -> tuple[str, ...]:
        return systemd.remove(settings)

    # what is looked at before a start

    def notebook_outdated(self) -> bool:
        supervisor = self.processes.supervisor  # without it the notebook's processes are ended, where there are any
        if not supervisor.running() or self.startup.lacks_groups():
            return True
        return not supervisor.is_current(self.specs.program(JUPYTER))

    def put_start_page(self, content: bytes) -> None:
        self.startup.files.put_start_page(content)

    @property
    def check_result(self) -> tuple[str, str]:
        if self.object_store != "folder":
            return "", ""
        return MLFLOW, str(self.deployment.artifacts / services.CHECK_RESULT)

    def lowest_port(self) -> int:
        return addresses.first_unprivileged()  # no service is root

    @property
    def checks(self) -> EmbeddedChecks:
        return EmbeddedChecks(self)


def _glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


_: type[base.Engine] = EmbeddedEngine  # the protocol is filled completely: mypy proves it here
