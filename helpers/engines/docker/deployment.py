"""One project on one Docker engine: its settings as they hold on that engine's machine, the client, the names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from helpers import digests, site_network
from helpers.engines import container_secrets
from helpers.engines.docker import client_config, compose_model, id_mapping, ssh_host
from helpers.engines.docker.client import DockerApi
from helpers.engines.host import Host, LocalHost
from helpers.project import deployment, shell_environment, workspace_folder
from helpers.project.project import Project
from helpers.services import BUCKET, STORE, STORE_SYNC, Network, SecretFile, Volume

NETWORKS = ("backend", "frontend", "tracking", "console")  # of all Compose files


class DockerDeployment(deployment.Deployment):
    """What the modules of this engine share. Its machine is known once it has been asked for."""

    def __init__(self, project: Project, api: DockerApi) -> None:
        super().__init__(project, _object_store(project))
        self.api = api
        self.host: Host = LocalHost()

    def locate(self, environ: Mapping[str, str]) -> None:
        """Find the machine, and the notebook's folder there. Raises EngineUnavailable."""
        self.host = ssh_host.host(self.project.state, environ)
        self.find_workspace()

    def find_workspace(self) -> None:
        """Whose the notebook's folder is, on the machine that runs the containers."""
        self.workspace, self.notebook_uid = self.host.workspace(self.settings)

    @cached_property
    def ids(self) -> id_mapping.IdMapping:
        """Who a container's accounts are on this machine."""
        return id_mapping.read(self.info)

    @property
    def limits_memory(self) -> bool:
        """Whether the engine counts and limits memory: a rootless one does where users are given cgroups."""
        return bool(self.info.get("MemoryLimit", True))

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the engine tells of itself and its machine, which no command of ours changes."""
        return self.api.info()

    def take_inner_owner(self) -> None:
        """With user namespaces the number of the workspace's owner is another one in the container."""
        if not self.ids.kind:
            return
        owner = self.workspace.stat().st_uid if self.workspace.is_dir() else self.ids.root_uid
        uid = self.ids.to_container(owner)
        if uid is None or (uid == 0 and not self.ids.rootless):
            uid = workspace_folder.UID
        self.notebook_uid = uid

    @property
    def services(self) -> tuple[str, ...]:
        """Each of these is a container: the store's own beside it, and the bucket's, which ends when it is made."""
        store = (STORE,) if self.object_store != "external" else ()
        synced = (STORE_SYNC,) if self.object_store == "versitygw" else ()
        first, *others = super().services
        return (first,) if self.notebook_only else (first, *store, *synced, BUCKET, *others)

    def volumes(self) -> tuple[Volume, ...]:
        return compose_model.volumes(self)

    def secret_files(self) -> tuple[SecretFile, ...]:
        return container_secrets.secret_files(self)

    def secrets_digest(self) -> str:
        """Changes with the secrets of the notebook, and with the certificate that goes beside them."""
        files = [s.template for s in self.secret_files()] if self.notebook_only else []
        return digests.digest(self.project.credentials_digest(), *files) if files else self.project.credentials_digest()

    def frontend(self) -> Network:
        """The only network of a notebook without services."""
        return Network(f"{self.settings.project}_frontend", mtu=min(self.host.uplink()[1] or 1500, 1500))

    @property
    def network_names(self) -> tuple[str, ...]:
        return tuple(f"{self.settings.project}_{name}" for name in NETWORKS)

    @cached_property
    def site_network(self) -> site_network.SiteNetwork:
        """The proxies and certificates of this machine's site; those of a node over ssh are not known here."""
        if self.host.remote:
            return site_network.SiteNetwork()
        return site_network.find(
            self.settings, shell_environment.applied(self.project.state), client_config.proxies(os.environ)
        )

    @cached_property
    def certificates(self) -> str:
        return site_network.certificates(self.site_network.bundles)


def _object_store(project: Project) -> str:
    """The object store that OBJECT_STORE means: for auto, where there are data, the one that holds them."""
    if project.settings.object_store != "auto":
        return project.settings.object_store
    before = "minio" if project.state.engine == "docker" else "versitygw"  # MinIO was the default of earlier releases
    kept = project.state.active.get("store", before)
    return "versitygw" if kept == "folder" else kept  # a folder is the embedded engine's


class DockerComponent(deployment.EngineComponent[DockerDeployment]):
    """One concern of a deployment on this engine."""

    @property
    def api(self) -> DockerApi:
        return self.deployment.api

    @property
    def host(self) -> Host:
        return self.deployment.host
