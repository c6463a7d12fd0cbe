"""The kubernetes engine: what the protocol asks for, from the modules beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, ClassVar

from helpers import services
from helpers.engines import base, shared, streaming
from helpers.engines.host import Host, HostFacts
from helpers.engines.kubernetes import exposure, host, kubectl, scheduled_backups, script, specs
from helpers.engines.kubernetes.checks import KubernetesChecks
from helpers.engines.kubernetes.claims import Claims
from helpers.engines.kubernetes.cluster import Cluster
from helpers.engines.kubernetes.data_claim import DataClaim
from helpers.engines.kubernetes.database import Database
from helpers.engines.kubernetes.deployment import WORK, KubernetesDeployment
from helpers.engines.kubernetes.forwards import Forwards
from helpers.engines.kubernetes.inspection import Inspection
from helpers.engines.kubernetes.logins import Logins
from helpers.engines.kubernetes.objects import WORKLOADS
from helpers.engines.kubernetes.ownership import Namespace
from helpers.engines.kubernetes.pod_commands import PodCommands
from helpers.engines.kubernetes.rendering import Rendering
from helpers.engines.kubernetes.scheduled_backups import ScheduledBackups
from helpers.engines.kubernetes.startup import Startup
from helpers.engines.kubernetes.stopping import Stopping
from helpers.errors import EngineUnavailable
from helpers.gpu.accelerator import Accelerator
from helpers.project.backup_runs import Runs
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


class KubernetesEngine(base.Engine):
    """Services as pods of a cluster, in a namespace of the project's own."""

    name: ClassVar[str] = "kubernetes"
    stores: ClassVar[tuple[str, ...]] = ("minio", "versitygw", "external")
    runs_containers: ClassVar[bool] = True
    in_cluster: ClassVar[bool] = True
    asked_at_once: ClassVar[bool] = True
    is_automatic: ClassVar[bool] = False
    adopts: ClassVar[bool] = True
    own_loopback: ClassVar[bool] = True
    runs_schedules: ClassVar[bool] = True
    can_be_public: ClassVar[bool] = True
    without_network: ClassVar[str] = (
        "put the images of a Docker bundle into your site's registry and name it with REGISTRY_MIRROR "
        "(docs/offline.md#kubernetes)"
    )
    deployment: KubernetesDeployment

    def __init__(self, project: Project) -> None:
        self.project = project
        self.deployment = here = KubernetesDeployment(project)
        self.cluster = Cluster(here)
        self.rendering = Rendering(here, self.cluster)
        self.forwards = Forwards(here)
        self.inspection = Inspection(here, self.cluster, self.forwards)
        self.commands = PodCommands(here, self.rendering)
        self.claims = Claims(here)
        self.logins = Logins(here)
        self.namespace = Namespace(here, self.rendering)
        self.stopping = Stopping(here, self.inspection)
        self.database = Database(here, self.commands)
        self.backups = ScheduledBackups(here, self.rendering)
        self.startup = Startup(
            here, self, self.namespace, self.rendering, self.inspection, self.database, self.forwards, self.backups
        )

    @property
    def settings(self) -> Settings:
        return self.deployment.settings

    @property
    def host(self) -> Host:
        return host.ClusterHost()

    # what there is

    @property
    def neighbours(self) -> str:
        return "pods of others may reach it where the cluster's network plugin enforces no NetworkPolicy"

    def availability(self) -> Availability:
        if kubectl.missing():
            error = kubectl.no_kubectl()
            return Availability(False, False, error.message, error.hint)
        try:
            version = self.cluster.meet()
        except EngineUnavailable as error:
            return Availability(False, True, error.message, error.hint)
        return Availability(True, True, f"Kubernetes {version}, context {self.deployment.target.context}")

    def versions(self) -> Mapping[str, str]:
        result = {"kubernetes": self.cluster.version()}
        return result | {f"image {spec.name}": spec.image for spec in self.plan().services}

    def host_facts(self) -> HostFacts:
        return host.facts(self.cluster, self.commands, self.deployment)

    @property
    def accelerator(self) -> Accelerator:
        return self.rendering.gpus.accelerator

    def remarks(self) -> tuple[str, ...]:
        chosen = self.rendering.gpus
        lines = [f"cluster: {self.deployment.where}"]
        if chosen.resource:
            lines.append(f"GPU: {chosen} ({chosen.accelerator.reason})")
        if external := self.deployment.external_database:
            lines.append(f"database: the PostgreSQL at {external}, which is yours to back up and to keep up")
        if self.deployment.is_public:
            lines.append(exposure.remark(self.settings))
        return tuple(lines)

    def data_volume(self) -> DataClaim:
        self.namespace.refuse_others()
        return DataClaim(self.deployment, self.rendering, self.commands)

    def access_token(self) -> str:
        return self.project.access_token()

    # the plan

    def plan(self) -> Plan:
        things = self.rendering.things
        listed = tuple(specs.service_spec(name, things, self.deployment) for name in self.deployment.services)
        return Plan(self.name, self.settings.project, listed, secrets=self.deployment.secret_files())

    def script(self, plan: Plan) -> str:
        return script.manifests(self.rendering.text, self.deployment)

    def plan_anew(self) -> None:
        self.rendering.forget()

    def prepare(self, progress: ProgressReporter) -> tuple[str, ...]:
        """Nothing: the nodes fetch their images themselves."""
        self.plan_anew()
        return ()

    def fingerprint(self) -> str:
        return self.rendering.digest()

    def unchanged(self) -> tuple[ServiceStatus, ...]:
        return shared.unchanged(self, self.project.state.applied) if self.forwards.are_current() else ()

    @property
    def workspace_inside(self) -> str:
        return str(WORK)

    def workspace_problem(self) -> tuple[str, str]:
        return "", ""

    def workspace_fix(self) -> str:
        return f"look at the volume claim work-jupyter-0 in {self.deployment.where}"

    def take_workspace(self, progress: ProgressReporter) -> None:
        """Nothing: the notebook's claim is made for it."""

    # looking

    def services(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        return self.inspection.statuses(detail)

    def details(self, service: str, hide: Hide) -> Details:
        self.namespace.refuse_others()
        return self.inspection.details(service, self.plan, hide)

    def logs(self, service: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        self.namespace.refuse_others()
        return self.inspection.logs(service, tail, follow)

    def open(self, service: str, port: str) -> AbstractContextManager[Address]:
        self.namespace.refuse_others()
        return self.forwards.open(service, port)

    def close_ports(self) -> None:
        self.forwards.stop()

    # running commands

    def exec(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 120
    ) -> ExecResult:
        self.namespace.refuse_others()
        return self.commands.run(service, argv, stdin, timeout)

    def one_shot(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None = None, timeout: float = 600
    ) -> ExecResult:
        self.namespace.refuse_others()
        return self.commands.run_apart(service, argv, stdin, timeout)

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[streaming.Pipe]:
        self.namespace.refuse_others()
        return self.commands.pipe(service, argv, fresh)

    def unlisted(self) -> tuple[str, ...]:
        return ()  # VersityGW lists all; nobody but its owner sees an external store's disk

    def halt(self, service: str, progress: ProgressReporter) -> None:
        if self.namespace.is_there():
            self.stopping.halt(service, progress)

    def resume(self, service: str, progress: ProgressReporter) -> None:
        self.namespace.refuse_others()
        replicas = self.settings.mlflow_replicas if service == MLFLOW else 1
        self.stopping.scale(service, replicas)
        progress.service(service, "starting")

    # starting and stopping

    def adopt(self) -> bool:
        return self.namespace.adopt()

    def check_foreign(self) -> None:
        self.namespace.check()
        self.database.check()

    def start(self, progress: ProgressReporter) -> StartReport:
        before = {status.name: status.identity for status in self.services() if status.up}
        self.check_foreign()
        self.database.keep()
        self.startup.start(progress)
        return shared.report(before, self.services())

    def stop(self, progress: ProgressReporter, drain: int = 40) -> tuple[str, ...]:
        self.forwards.stop()
        if not self.namespace.is_there():
            return ()
        self.backups.remember()
        stopped = [status.name for status in self.services() if status.state is not State.MISSING]
        self.stopping.stop(progress, drain)
        return tuple(reversed(stopped))

    def data(self) -> tuple[DataItem, ...]:
        return self.claims.data()

    def remove_data(self, progress: ProgressReporter, keep_workspace: bool = False) -> tuple[str, ...]:
        kept = self.claims.remove(progress, keep_workspace) if self.namespace.is_there() else ""
        lines = self.namespace.leave(kept) if kept else self.namespace.remove()
        return (*lines, *self.database.leave())

    def put_users(self) -> tuple[str, ...]:
        if not self.namespace.is_there():
            return ()
        self.deployment.kubectl.apply(self.backups.secrets(), "the logins of the next backup")
        return self.logins.put()

    def put_start_page(self, content: bytes) -> None:
        if self.namespace.is_there():
            self.logins.put_start_page(content)

    # scheduled backups

    def start_schedule(self) -> tuple[str, ...]:
        self.namespace.refuse_others()
        self.backups.apply()
        return (f"CronJob {scheduled_backups.NAME} in {self.deployment.where} runs it",)

    def end_schedule(self) -> tuple[str, ...]:
        if not self.namespace.is_there():
            return ()
        self.backups.end()
        return (f"CronJob {scheduled_backups.NAME} in {self.deployment.where} was removed",)

    def scheduled_runs(self) -> Runs | None:
        return self.backups.runs()

    # what is looked at before a start

    def notebook_outdated(self) -> bool:
        workload = WORKLOADS[JUPYTER]
        return not self.rendering.is_current(JUPYTER, self.deployment.kubectl.find(workload.kind, workload.name))

    @property
    def check_result(self) -> tuple[str, str]:
        return (STORE_SYNC, f"/store/{services.CHECK_RESULT}") if self.object_store == "versitygw" else ("", "")

    def process(self, status: ServiceStatus) -> str:
        return f"{status.identity}@{status.since}"

    @property
    def checks(self) -> KubernetesChecks:
        return KubernetesChecks(self, self.deployment, self.rendering, self.forwards, self.database)


_: type[base.Engine] = KubernetesEngine  # the protocol is filled completely: mypy proves it here
