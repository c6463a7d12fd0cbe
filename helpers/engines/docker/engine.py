"""The docker engine: what the protocol asks for, from the modules beside this one."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, ClassVar

from helpers import clone, digests, services
from helpers.bundles import Bundle, Packing
from helpers.engines import base, notebook_image, shared, streaming
from helpers.engines.docker import availability, bundled, client, images, ownership, script, stopping
from helpers.engines.docker.checks import DockerChecks
from helpers.engines.docker.client import DockerApi
from helpers.engines.docker.compose import ComposeProject
from helpers.engines.docker.containers import Containers
from helpers.engines.docker.data_volume import DataVolume
from helpers.engines.docker.deployment import DockerDeployment
from helpers.engines.docker.devices import Devices
from helpers.engines.docker.inspection import Inspection
from helpers.engines.docker.network_guard import NetworkGuard
from helpers.engines.docker.notebook_container import NotebookContainer
from helpers.engines.docker.postgres import Database
from helpers.engines.docker.service_commands import ServiceCommands
from helpers.engines.docker.startup import Startup
from helpers.engines.docker.volumes import Volumes
from helpers.engines.docker.workspace import Workspace
from helpers.engines.host import Host, HostFacts, local_facts
from helpers.engines.notebook_spec import HOME
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.gpu.accelerator import Accelerator
from helpers.project.project import Project
from helpers.services import (
    JUPYTER,
    MLFLOW,
    STORE_SYNC,
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
    State,
)
from helpers.settings import Settings
from helpers.shell_words import as_root

INSIDE = {MLFLOW: 8000, JUPYTER: 8888}  # the ports in the containers


class DockerEngine(base.Engine):
    """Services as containers on a Docker engine: this machine's, or another one's over ssh."""

    name: ClassVar[str] = "docker"
    disk_needed: ClassVar[int] = 6 << 30
    stores: ClassVar[tuple[str, ...]] = ("minio", "versitygw", "external")
    runs_containers: ClassVar[bool] = True
    adopts: ClassVar[bool] = True
    can_be_public: ClassVar[bool] = True
    own_loopback: ClassVar[bool] = True
    by_hand: ClassVar[str] = "docker compose"
    larger_disk: ClassVar[str] = "move Docker's data-root to a larger disk"
    deployment: DockerDeployment

    def __init__(self, project: Project, api: DockerApi | None = None) -> None:
        self.project = project
        self.deployment = DockerDeployment(project, api or DockerApi())
        self.devices = Devices(self.deployment)
        self.volumes = Volumes(self.deployment)
        self.containers = Containers(self.deployment, self.volumes)
        self.notebook = NotebookContainer(self.deployment, self.devices)
        self.workspace = Workspace(self.deployment, self.notebook)
        self.compose = ComposeProject(self.deployment)
        self.database = Database(self.deployment, self)
        self.guard = NetworkGuard(self.deployment)
        self.commands = ServiceCommands(self.containers, self.notebook, self.compose)
        self.inspection = Inspection(self.deployment)
        self.startup = Startup(self, self.notebook, self.workspace, self.compose, self.database, self.guard)

    @property
    def settings(self) -> Settings:
        return self.deployment.settings

    @property
    def host(self) -> Host:
        return self.deployment.host

    @property
    def api(self) -> DockerApi:
        return self.deployment.api

    # what there is

    def availability(self) -> Availability:
        try:
            self.deployment.locate(os.environ)
        except EngineUnavailable as error:
            return Availability(False, True, error.message, error.hint)
        result = availability.look(self.api, self.deployment.is_public, lambda: self._compose_version)
        if self.host.remote:
            return replace(result, reason=f"{result.reason}, on {self.host.name}")
        if result.usable:
            self.deployment.take_inner_owner()
        return result

    @functools.cached_property
    def _compose_version(self) -> str | None:
        return availability.compose_version()

    def versions(self) -> Mapping[str, str]:
        result = {"docker": str(self.api.version()["Version"]), "compose": self._compose_version or ""}
        for service in self.plan().services:
            result[f"image {service.name}"] = service.image
        return result

    def host_facts(self) -> HostFacts:
        info = self.deployment.info
        root = str(info.get("DockerRootDir", "/"))
        if self.host.remote:
            return self.host.facts(info, self.devices.machine)
        facts = local_facts(Path(root))
        return HostFacts(
            **client.machine(info, facts.hostname),
            memory_available=facts.memory_available,
            disk_free=facts.disk_free,
            disk_path=root,
            machine=self.devices.machine,
        )

    @property
    def accelerator(self) -> Accelerator:
        return self.devices.accelerator

    def remarks(self) -> tuple[str, ...]:
        lines = shared.remarks(self.accelerator, self.notebook.empty_data())
        return (*lines, *(f"warning: {item.detail}" for item in self.checks.limits()))

    def data_volume(self) -> DataVolume:
        return DataVolume(self.notebook)

    def access_token(self) -> str:
        return self.project.access_token()

    # the plan

    def plan(self) -> Plan:
        here = self.deployment
        # with the notebook alone there are no services, so no Compose
        services = () if here.notebook_only else self.compose.services()
        networks = (here.frontend(),) if here.notebook_only else self.compose.networks()
        return Plan(
            self.name,
            here.settings.project,
            (*services, self.notebook.spec),
            here.volumes(),
            networks,
            here.secret_files(),
        )

    def script(self, plan: Plan) -> str:
        return script.containers(plan, self.deployment, self.notebook.image, self.accelerator)

    def variables_by_hand(self) -> Mapping[str, str]:
        return {} if self.deployment.notebook_only else self.compose.values()

    def plan_anew(self) -> None:
        self.compose.forget()
        self.notebook.forget()

    def fingerprint(self) -> str:
        """A hash of all that the containers are made from: a different one means `up` has work to do."""
        spec = self.notebook.spec
        if self.deployment.notebook_only:
            return digests.digest(spec, self.deployment.secrets_digest())
        return digests.digest(
            self.compose.values(),
            *(clone.ROOT / f for f in self.compose.files),
            spec,
            self.project.credentials_digest(),
        )

    def unchanged(self) -> tuple[ServiceStatus, ...]:
        statuses = shared.unchanged(self, self.project.state.applied)
        if not statuses or self.workspace.is_closed():
            return ()
        present = images.present(self.api, self.deployment, self.notebook.image)
        if images.outdated(present, self.settings, self.notebook.image):
            return ()
        # A rebuilt or re-pulled image under the same name is a change. The name is the plan's: once it means another
        # image, Docker lists the container's by its id.
        now = images.ids(present, self.deployment, self.notebook.image)
        return statuses if all(status.image_id == now.get(status.name) for status in statuses) else ()

    @property
    def workspace_inside(self) -> str:
        return f"{HOME}/work"

    def workspace_problem(self) -> tuple[str, str]:
        return self.workspace.problem()

    def workspace_fix(self) -> str:
        return self.workspace.fix()

    def take_workspace(self, progress: ProgressReporter) -> None:
        """Nothing: the notebook runs as the workspace's owner."""

    # looking

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        return self.containers.statuses(detail)

    def details(self, service: str, hide: Hide) -> Details:
        return self.inspection.details(service, self.containers.of(service), self.plan, hide)

    def logs(self, service: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        # not the command line: it would outlive this process when that is killed, and hold a connection open
        yield from self.api.logs(self.containers.find(service).id, tail, follow)

    @contextmanager
    def open(self, service: str, port: str) -> Iterator[Address]:
        ports = self.containers.ports(service)
        if not any(p.name == port for p in ports):
            if self.deployment.is_public and service in INSIDE:
                # published by the gateway alone, behind its logins: this machine goes to the container itself
                yield Address(self.api.address(self.containers.find(service).id), INSIDE[service])
                return
            # not up yet: where it will be
            ports = (self.notebook.spec if service == JUPYTER else self.plan().service(service)).ports
        for candidate in ports:
            if candidate.name == port:
                yield self.host.reach(candidate)
                return
        raise TrackbedError(f"{service} publishes no port {port}")

    # running commands

    def exec(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult:
        return self.commands.run(service, argv, stdin, timeout)

    def begin(self, service: str, argv: tuple[str, ...], timeout: float = 120) -> Callable[[], ExecResult]:
        return self.commands.begin(service, argv, timeout)

    def one_shot(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 600
    ) -> ExecResult:
        return self.commands.one_shot(service, argv, stdin, timeout)

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[streaming.Pipe]:
        return self.commands.pipe(service, argv, fresh)

    def feed(self, service: str, argv: tuple[str, ...]) -> AbstractContextManager[streaming.Pipe]:
        return self.commands.feed(service, argv)

    def unlisted(self) -> tuple[str, ...]:
        return self.compose.unlisted()

    def halt(self, service: str, progress: ProgressReporter) -> None:
        self.commands.halt(service, progress)

    def resume(self, service: str, progress: ProgressReporter) -> None:
        self.commands.resume(service, progress)

    # starting

    def prepare(self, progress: ProgressReporter) -> tuple[str, ...]:
        created = images.ensure(self.api, self.deployment, self.notebook.image, progress)
        self.plan_anew()
        return created

    def pack(self, into: Packing) -> None:
        notebook = notebook_image.choose(self.settings, shared.for_bundle(self))
        bundled.pack(self.api, self.deployment, notebook, self.host_facts().disk_free, into)

    def take_bundle(self, bundle: Bundle, progress: ProgressReporter) -> None:
        bundled.load(self.api, self.deployment, self.notebook.image, bundle, progress)

    def disk_warning(self) -> str:
        stale = images.stale(self.api, self.deployment, self.notebook.image)
        warning = images.warn_about_disk(stale, self.notebook.image, self.host_facts().disk_free)
        return f"warning: {warning}" if warning else ""

    def adopt(self) -> bool:
        return self.volumes.adopt()

    def check_foreign(self) -> None:
        ownership.check(self.deployment, self.containers)

    def make_volumes(self) -> bool:
        return self.volumes.make(
            self.notebook.image.name if self.deployment.notebook_only else self.settings.mlflow_image
        )

    def start(self, progress: ProgressReporter) -> StartReport:
        return self.startup.start(progress)

    def network_guard(self) -> tuple[str, ...]:
        return self.guard.put()

    def start_at_boot(self) -> tuple[str, ...]:
        return (
            "Docker restarts the containers after a reboot, when systemd starts Docker "
            f"({as_root('systemctl enable docker')})",
        )

    def put_users(self) -> tuple[str, ...]:
        self.volumes.put_users()
        return ()

    def put_start_page(self, content: bytes) -> None:
        self.volumes.put_start_page(content)

    # stopping

    def stop(self, progress: ProgressReporter, drain: int = 40) -> tuple[str, ...]:
        stopped = [s.name for s in self.services() if s.state is not State.MISSING]
        self.notebook.stop(progress, drain)
        if self.deployment.notebook_only:
            self.api.remove_network(self.deployment.frontend().name)
            return tuple(stopped)
        stopping.stop(self.containers, self.compose, self.guard, drain, progress)
        return tuple(reversed(stopped))

    def data(self) -> tuple[DataItem, ...]:
        return self.volumes.data()

    def remove_data(self, progress: ProgressReporter, keep_workspace: bool = False) -> tuple[str, ...]:
        self.volumes.remove(progress)
        return ()  # the workspace is a folder, which nothing deletes

    # what is looked at before a start

    def notebook_outdated(self) -> bool:
        image = self.notebook.spec.image
        return images.is_stale(self.api, image, self.settings, self.notebook.image) or not self.notebook.is_current

    @property
    def check_result(self) -> tuple[str, str]:
        return (STORE_SYNC, f"/store/{services.CHECK_RESULT}") if self.object_store == "versitygw" else ("", "")

    def port_owners(self) -> Mapping[int, str]:
        return self.containers.port_owners()

    def process(self, status: ServiceStatus) -> str:
        return f"{status.identity}@{self.api.started(status.identity)}"

    @property
    def checks(self) -> DockerChecks:
        return DockerChecks(self, self.guard)


_: type[base.Engine] = DockerEngine  # the protocol is filled completely: mypy proves it here
