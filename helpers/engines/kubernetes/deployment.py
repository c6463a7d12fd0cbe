"""One project in one cluster: its settings as they hold there, kubectl, the services, the secrets."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from helpers import database_settings, digests, site_network
from helpers.engines import container_secrets
from helpers.engines.kubernetes import objects, target
from helpers.engines.kubernetes.kubectl import Kubectl
from helpers.errors import TrackbedError, WrongProject
from helpers.leases import last_backup
from helpers.project import backup_schedule, deployment, mlflow_jobs, shell_environment, workspace_folder
from helpers.project.backup_runs import CLUSTER, Schedule
from helpers.project.project import Project
from helpers.services import BUCKET, JUPYTER, SCHEMA, STORE, STORE_SYNC, SecretFile

WORK = Path("/home/jovyan/work")  # the workspace, a claim: as the notebook sees it

LARGEST_FILE = 900_000  # bytes of certificates; a Secret holds 1 MiB, with what else is in it
DATABASE_PORT = 5432


class KubernetesDeployment(deployment.Deployment):
    """What the modules of this engine share. The cluster is looked for when something is first asked of it."""

    def __init__(self, project: Project) -> None:
        super().__init__(project, _object_store(project))
        self.workspace = WORK
        self.notebook_uid = workspace_folder.UID

    @cached_property
    def target(self) -> target.Target:
        """The context and the namespace. Raises EngineUnavailable."""
        return target.choose(self.settings)

    @cached_property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.target.context, self.target.namespace)

    @property
    def folder(self) -> Path:
        """What this engine keeps on this machine."""
        return target.folder(self.settings)

    @property
    def scheduled(self) -> Schedule | None:
        """The schedule of backups that the cluster runs, whose ``every`` is 0 where it makes the last backup of a lease
        alone; one that is damaged is told of by `status`."""
        if self.notebook_only:
            return None
        try:
            made = backup_schedule.load(self.settings.folder)
        except TrackbedError:
            return None
        if made and made.runner == CLUSTER:
            return made
        place = self.last_place
        return Schedule(0.0, place, 0.0, CLUSTER, 0) if place else None

    @property
    def last_place(self) -> str:
        """Where the cluster makes the last backup of a lease to; "" where it makes none."""
        setup = last_backup.load(self.settings.folder)
        return setup.place if setup and setup.runner == CLUSTER else ""

    @property
    def where(self) -> str:
        return f"namespace {self.target.namespace} of context {self.target.context}"

    @property
    def selector(self) -> str:
        """What this project made in its namespace, where others may have put something of theirs."""
        return f"--selector={objects.INSTANCE}={self.project.state.instance}"

    def belongs_to(self, owner: str) -> WrongProject:
        """The error for a namespace with the mark of another project's instance."""
        return WrongProject(
            f"{self.where} belongs to another Trackbed project (instance {owner[:8]}, this one is "
            f"{self.project.state.instance[:8]})",
            "if it is yours and its state folder was lost: `invoke up --adopt`; otherwise choose another name with "
            "--project=NAME",
        )

    @property
    def services(self) -> tuple[str, ...]:
        """In the order of their start; the Jobs, which end, among them."""
        store = (STORE,) if self.object_store != "external" else ()
        synced = (STORE_SYNC,) if self.object_store == "versitygw" else ()
        first, *others = super().services
        return (first,) if self.notebook_only else (first, *store, *synced, SCHEMA, BUCKET, *others)

    @property
    def external_database(self) -> str:
        """HOST:PORT of a PostgreSQL of the user's; "" where it is ours."""
        host = "" if self.notebook_only else self.settings.database_host
        return host if ":" in host or not host else f"{host}:{DATABASE_PORT}"

    @property
    def database_admin(self) -> str:
        """A server of the user's has no superuser for us: the role of the tracking server makes its databases."""
        return database_settings.USER if self.external_database else super().database_admin

    @property
    def workers(self) -> int:
        """Processes of the tracking server in all its pods, during an update."""
        return database_settings.cluster_workers(self.settings.mlflow_replicas, self.settings.mlflow_workers)

    def connections_problem(self, most: int) -> str:
        """What is wrong where the database allows ``most`` connections; "" where that is enough."""
        needed = database_settings.needed(self.workers, mlflow_jobs.enabled(self))
        if most >= needed:
            return ""
        return (
            f"the PostgreSQL at {self.external_database} allows {most} connections, and MLflow's pods may open {needed}"
        )

    def secret_files(self) -> tuple[SecretFile, ...]:
        return container_secrets.secret_files(self)

    @cached_property
    def site_network(self) -> site_network.SiteNetwork:
        """The proxies and certificates of this machine's site, which is the cluster's as well."""
        return site_network.find(self.settings, shell_environment.applied(self.project.state), {})

    @cached_property
    def proxies(self) -> dict[str, str]:
        """The variables of the site's proxies, for the notebook; those that the user gives it are left out."""
        pod = f"{objects.WORKLOADS[JUPYTER].name}-0"  # kernels ask JupyterLab at its own name, with its token
        own = (pod, f".{self.target.namespace}", ".svc", ".cluster.local", *_in_cluster(self.settings.tracking_uri))
        reachable = self.site_network.reachable_from_containers()
        return reachable.environment((*site_network.inside(self.settings), *own), self.settings.jupyter_env)

    @cached_property
    def certificates(self) -> str:
        """Those of the site, for the notebook; "" for none. Raises TrackbedError for more than a Secret takes."""
        text = site_network.certificates(self.site_network.bundles)
        if len(text) > LARGEST_FILE:
            raise TrackbedError(
                f"the site's certificates, {', '.join(self.site_network.bundles)}, are {len(text)} bytes, and a Secret "
                f"takes {LARGEST_FILE}",
                f"name a file with the site's own alone, as in {site_network.TRUST[0]}=FILE",
            )
        return text

    @property
    def private_environment(self) -> dict[str, str]:
        """The notebook's variables that may have passwords or tokens: a Secret has them, and nothing else does."""
        return {**self.proxies, **self.settings.jupyter_env}

    def secrets_digest(self) -> str:
        """Changes with the secrets and with what is told to nobody but sits beside them."""
        given = self.project.credentials_digest()
        return digests.digest(given, *(file.template for file in self.secret_files())) if given else ""


def _in_cluster(tracking_uri: str) -> tuple[str, ...]:
    """The host of a tracking server that is a Service: SERVICE or SERVICE.NAMESPACE, without TLS."""
    parts = urlsplit(tracking_uri)
    host = parts.hostname or ""
    return (host,) if parts.scheme == "http" and host and host.count(".") < 2 else ()


def _object_store(project: Project) -> str:
    """The object store that OBJECT_STORE means here; a folder is another engine's."""
    if project.settings.object_store != "auto":
        return project.settings.object_store
    kept = project.state.active.get("store", "versitygw")
    return "versitygw" if kept in ("folder", "") else kept


class KubernetesComponent(deployment.EngineComponent[KubernetesDeployment]):
    """One concern of a deployment on this engine."""

    @property
    def kubectl(self) -> Kubectl:
        return self.deployment.kubectl
