"""What holds for a project on one engine, where settings say what was asked for. Made once by the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from helpers import database_settings
from helpers.project import workspace_folder
from helpers.project.project import Project
from helpers.services import GATEWAY, JUPYTER, MLFLOW, POSTGRES, STORE, STORE_SYNC
from helpers.settings import Settings

INSIDE = {JUPYTER: 8888, STORE: 9000, STORE_SYNC: 9002}  # the ports in the containers


class Deployment:
    """The services of this profile, the object store, the notebook's folder and whom the notebook runs as."""

    def __init__(self, project: Project, object_store: str) -> None:
        """``object_store``: minio, versitygw, external, or a folder."""
        self.project = project
        self.object_store = object_store
        self.workspace: Path = project.settings.workspace  # on the machine that runs the services
        self.notebook_uid: int | None = None  # None: whom the folder belongs to, here
        self.start_page = b""  # what the next start hands to the MLflow server for it (helpers/start_page.py)

    @property
    def settings(self) -> Settings:
        return self.project.settings

    @property
    def services(self) -> tuple[str, ...]:
        """The names of the services in the order of their start: the notebook alone beside a remote tracking server."""
        if self.notebook_only:
            return (JUPYTER,)
        return (POSTGRES, MLFLOW, *((GATEWAY,) if self.is_public else ()), JUPYTER)

    @property
    def notebook_only(self) -> bool:
        """Whether MLflow's server is a remote one, so that the notebook is the only service."""
        return self.project.notebook_only

    @property
    def is_public(self) -> bool:
        """Whether other machines reach the services, through the gateway."""
        return self.project.is_public

    def inside_address(self, service: str) -> tuple[str, int, bool] | None:
        """Where the MLflow server reaches another service, and whether that speaks HTTP; None for one that it asks in
        another way, or may not reach."""
        port = INSIDE.get(service)
        return (service, port, service != STORE_SYNC) if port else None

    @property
    def database_admin(self) -> str:
        """The role that makes and drops databases."""
        return database_settings.ADMIN

    @property
    def s3_is_public(self) -> bool:
        """Whether the gateway publishes the S3 API of a store of ours."""
        return self.is_public and self.settings.public_s3 and self.object_store != "external"

    @property
    def console_is_public(self) -> bool:
        """Whether the gateway publishes the store's console. VersityGW's runs in the browser and talks to the S3 API:
        without that it is of no use."""
        return self.is_public and (
            self.object_store == "minio" or (self.object_store == "versitygw" and self.s3_is_public)
        )

    @property
    def owner(self) -> int:
        """The uid that the notebook runs as; -1 where its account has not been made."""
        return workspace_folder.owner(self.workspace) if self.notebook_uid is None else self.notebook_uid


DeploymentT = TypeVar("DeploymentT", bound=Deployment)


class EngineComponent(Generic[DeploymentT]):
    """A component of an engine: what it does about one concern (its volumes, its database) of one deployment."""

    def __init__(self, deployment: DeploymentT) -> None:
        self.deployment = deployment

    @property
    def project(self) -> Project:
        return self.deployment.project

    @property
    def settings(self) -> Settings:
        return self.deployment.settings
