"""One project on this machine: its folders and accounts, its GPU, the site's network; what only run time knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import digests, machine_failures, site_network
from helpers.engines import jupyterlab, shared
from helpers.engines.embedded.accounts import ROLE_OF
from helpers.engines.embedded.layout import Layout
from helpers.engines.embedded.postgres_wheels import MAJOR
from helpers.engines.host import LOCAL, HostFacts, local_facts
from helpers.gpu import accelerator, placeholders, wheels
from helpers.gpu.accelerator import Accelerator
from helpers.project import deployment, remote_tracking, server_secrets, shell_environment
from helpers.project.project import Project
from helpers.services import JUPYTER, MLFLOW, Port, SecretFile
from helpers.settings import Settings


def data_folder(settings: Settings) -> Path:
    """Where everything of a project on this engine is."""
    return settings.folder / "embedded"


class EmbeddedDeployment(deployment.Deployment):
    """What the modules of this engine share. Looking at it changes nothing."""

    def __init__(self, project: Project) -> None:
        super().__init__(project, "external" if project.settings.object_store == "external" else "folder")
        self.folder = data_folder(self.settings)
        self.layout = Layout(self.settings.project, self.folder, self.workspace)

    def ports(self, service: str) -> tuple[Port, ...]:
        number = {MLFLOW: self.settings.mlflow_port, JUPYTER: self.settings.jupyter_port}.get(service)
        return (Port("http", number, number, self.settings.bind_address),) if number else ()

    def inside_address(self, service: str) -> tuple[str, int, bool] | None:
        return (self.settings.bind_address, self.settings.jupyter_port, True) if service == JUPYTER else None

    # where things are

    @property
    def database_folder(self) -> Path:
        return self.layout.database(MAJOR)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def app(self) -> Path:
        """What root puts there for the services to read and run."""
        return self.folder / "app"

    @property
    def startup(self) -> Path:
        """The notebook's start-up files."""
        return self.app / "startup"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    def data_set(self) -> str:
        """Its folder, "" for none: a name that is no folder's here may be a Docker volume's. Raises TrackbedError."""
        name, beside = self.settings.data_volume, self.settings.data_folder
        return shared.data_folder(name, LOCAL) or (str(beside) if name and beside.is_dir() else "")

    # whose they are

    def identity(self, service: str, groups: tuple[str, ...] = ()) -> dict[str, Any]:
        """What subprocess is told to run something as the account of a service; {} for a normal user."""
        return self.layout.identity(service, groups)

    def uid(self, service: str) -> int:
        """Of the account of a service; -1 when it has not been made."""
        account = self.layout.accounts.find(ROLE_OF[service])
        return account.pw_uid if account else -1

    @property
    def owner(self) -> int:
        return self.uid(JUPYTER)

    # the machine

    def host_facts(self) -> HostFacts:
        facts = local_facts(self.folder)
        limit, free = machine_failures.memory_limit()  # of a batch system's session: these processes stand below it
        if 0 < limit < facts.memory:
            facts = replace(facts, memory=limit, memory_available=min(free, facts.memory_available))
        return facts

    @cached_property
    def accelerator(self) -> Accelerator:
        settings = self.settings
        choose = placeholders.choose if self.project.dry_run else accelerator.choose
        return choose(
            settings.gpu,
            settings.devices,
            self.host_facts().machine,
            bare=True,
            torch=wheels.word(settings.torch, settings.torch_index),
        )

    # the shell and the site

    def inherited_environment(self, named: Iterable[str] = ()) -> dict[str, str]:
        """What is taken from the shell that started the project, and from the machine: proxies, certificates, TZ.

        ``named``: variables that the user gives; a proxy among them is left out, in either spelling.
        """
        other = {name.upper() for name in named} & set(site_network.PROXIES)
        shell = shell_environment.applied(self.project.state)
        variables = {
            **{name: value for name, value in shell.items() if name.upper() not in other},
            **self._site_network.environment(site_network.inside(self.settings), other),
        }
        return variables | (site_network.trust(str(self.app / jupyterlab.CERTIFICATES)) if self.certificates else {})

    @property
    def _site_network(self) -> site_network.SiteNetwork:
        return site_network.find(self.settings, shell_environment.applied(self.project.state), {})

    @cached_property
    def certificates(self) -> str:
        """Their text: the services read a copy, the site's own file may be root's alone."""
        return site_network.certificates(self._site_network.bundles)

    # secrets

    def secret_files(self) -> tuple[SecretFile, ...]:
        folder, asks = str(self.secrets), self.project.asks
        listed = [
            SecretFile(JUPYTER, folder, "jupyter-token", "{JUPYTER_TOKEN}", ("JUPYTER_TOKEN",), 0, 0),
            SecretFile(JUPYTER, folder, jupyterlab.COOKIE_FILE, jupyterlab.COOKIE, ("JUPYTER_TOKEN",), 0, 0),
        ]
        if self.notebook_only:
            return (*listed, *remote_tracking.secret_files(self.settings, folder, 0, 0))
        listed += server_secrets.files(folder, 0, 0, asks)
        listed += server_secrets.notebook_files(folder, 0, 0, asks)
        if self.object_store == "external":
            keys = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
            listed.append(SecretFile(MLFLOW, folder, "aws-credentials", shared.AWS_CREDENTIALS, keys, 0, 0))
        return tuple(listed)

    def notebook_digest(self) -> str:
        """Changes with the secrets, and with the certificate that goes beside them."""
        files = [s.template for s in self.secret_files() if s.service == JUPYTER]
        return digests.digest(self.project.credentials_digest(), *files)


class EmbeddedComponent(deployment.EngineComponent[EmbeddedDeployment]):
    """One concern of a deployment on this engine."""

    @property
    def layout(self) -> Layout:
        return self.deployment.layout

    @property
    def folder(self) -> Path:
        return self.deployment.folder
