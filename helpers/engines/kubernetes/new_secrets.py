"""The Secrets of objects that are applied by hand, with random values that are kept nowhere but in the cluster.

python -m helpers.engines.kubernetes.new_secrets | kubectl --namespace=trackbed create -f -

A password or key of your own comes from .env or the environment, as for `invoke up`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from helpers.clone import ROOT
from helpers.database_settings import USER
from helpers.engines.container_secrets import secret_files
from helpers.project import credentials, workspace_folder
from helpers.project.credentials import POSTGRES_PASSWORD
from helpers.project.deployment import Deployment
from helpers.project.project import Project
from helpers.project.state import State
from helpers.services import POSTGRES
from helpers.settings import Settings

OPERATOR = "secrets-cloudnativepg"  # how the component cloudnativepg is told the password


def secrets(settings: Settings) -> dict[str, Any]:
    """A List of Secrets, one for each service; the gateway's among them, without a login."""
    deployment = Deployment(Project(settings, State.load(settings.folder)), "versitygw")
    deployment.notebook_uid = workspace_folder.UID
    values = credentials.unkept(settings)
    files: dict[str, dict[str, str]] = {}
    for file in secret_files(deployment):
        files.setdefault(f"secrets-{file.service}", {})[file.path] = values.render(file.template, file.names)
    items = [secret(name, content) for name, content in files.items()]
    if f"secrets-{POSTGRES}" in files:
        login = {"username": USER, "password": values[POSTGRES_PASSWORD]}
        items.append(secret(OPERATOR, login) | {"type": "kubernetes.io/basic-auth"})
    return {"apiVersion": "v1", "kind": "List", "items": items}


def secret(name: str, content: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "trackbed"}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": content}


if __name__ == "__main__":
    # MLflow asks for its token, and the gateway has what it needs, whichever components are chosen
    loaded = Settings.load({"public": "true"}, os.environ, ROOT / ".env", {})
    sys.stdout.write(json.dumps(secrets(loaded), indent=2) + "\n")
