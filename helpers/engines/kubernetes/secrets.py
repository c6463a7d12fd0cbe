"""The services' files of secrets as Secret objects. Their values are in no plan, no argument and no file."""

from __future__ import annotations

import base64

from helpers.engines import gateway_spec, jupyterlab
from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.engines.kubernetes.kubectl import Object
from helpers.project import server_secrets
from helpers.services import GATEWAY, JUPYTER, MLFLOW

ENVIRONMENT = "environment-jupyter"  # the notebook's variables that may have tokens or proxies' passwords


def name(service: str) -> str:
    return f"secrets-{service}"


def rendered(deployment: KubernetesDeployment) -> list[Object]:
    """One Secret for each service that reads files, with today's values."""
    credentials = deployment.project.credentials()
    files: dict[str, dict[str, str]] = {}
    for file in deployment.secret_files():
        value = credentials.render(file.template, file.names).encode()
        files.setdefault(file.service, {})[file.path] = base64.b64encode(value).decode()
    if deployment.is_public:
        own = gateway_spec.files(deployment.settings)
        files[GATEWAY] |= {path: base64.b64encode(text).decode() for path, text in own.items()}
    if deployment.start_page:
        files[MLFLOW][server_secrets.START_PAGE] = base64.b64encode(deployment.start_page).decode()
    if deployment.certificates:  # no secret, but beside the notebook's secrets on every engine
        content = base64.b64encode(deployment.certificates.encode()).decode()
        files.setdefault(JUPYTER, {})[jupyterlab.CERTIFICATES] = content
    private = deployment.private_environment
    given = {key: base64.b64encode(value.encode()).decode() for key, value in private.items()}
    return [
        *(secret(deployment, name(service), service, content) for service, content in files.items()),
        secret(deployment, ENVIRONMENT, JUPYTER, given),
    ]


def secret(deployment: KubernetesDeployment, called: str, service: str, content: dict[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": called,
            "namespace": deployment.target.namespace,
            "labels": {
                "app.kubernetes.io/name": "trackbed",
                objects.PROJECT: objects.label(deployment.settings.project),
                objects.INSTANCE: deployment.project.state.instance,
                objects.PART: service,
            },
        },
        "type": "Opaque",
        "data": content,
    }


def by_hand(deployment: KubernetesDeployment) -> str:
    """Which Secrets somebody who applies the YAML by hand has to make, as comments."""
    keys: dict[str, dict[str, None]] = {}
    for file in deployment.secret_files():
        keys.setdefault(file.service, {})[file.path] = None
    if deployment.is_public:
        keys[GATEWAY] |= dict.fromkeys(gateway_spec.files(deployment.settings))
    if deployment.certificates:
        keys[JUPYTER][jupyterlab.CERTIFICATES] = None
    lines = [f"#   {name(service)}: {', '.join(paths)}" for service, paths in keys.items()]
    lines += [f"#   {ENVIRONMENT}: {', '.join(given)}"] if (given := tuple(deployment.private_environment)) else []
    return "\n".join(
        [
            "# Secrets are not in here. `invoke up` makes them; docs/kubernetes.md has the lines that do it by hand:",
            *lines,
        ]
    )
