"""What the scripts of every engine have: the head, secrets that the shell makes, the addresses at the end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from helpers import site_network, urls
from helpers.engines.host import LOCAL, Host
from helpers.gpu.accelerator import Accelerator
from helpers.project.credentials import FORMER, MLFLOW_TOKEN, WEBHOOK_KEY
from helpers.project.deployment import Deployment
from helpers.services import Plan, Port, SecretFile, ServiceSpec

SECRET = """\
# a random secret; it stays in this shell and in the files it is written to
secret() { head -c 24 /dev/urandom | base64 | tr '+/' 'xy' | tr -d '\\n'; }
fernet_key() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\\n'; }"""


def head(plan: Plan, engine: str) -> str:
    """The first lines."""
    return (
        f"#!/usr/bin/env bash\n# What `invoke up --engine={engine}` does for project {plan.project}, as plain "
        "commands. Run it with bash, in the clone.\nset -euo pipefail"
    )


def placeholders(gpu: Accelerator, commands: str) -> str:
    """What only the machine with the GPU knows and the commands use; "" for a plan of this machine's own."""
    if not gpu.foreign:
        return ""
    used = [f"{one.name}={one.lookup}  # {one.what}" for one in gpu.placeholders if one.word in commands]
    lines = [f"# {gpu.reason}: for a machine with that GPU, which this one is not."]
    if used:
        lines.append("# PLACEHOLDERS: each line looks for its value there; or write it in by hand.")
    return "\n".join([*lines, *used])


def variable(service: ServiceSpec, port: Port) -> str:
    """The shell variable of a published port."""
    if service.name == "gateway" and port.name == "http":
        return "MLFLOW_PORT"
    return {
        "http": f"{service.name.upper()}_PORT",
        "s3": "S3_PORT",
        "console": "S3_CONSOLE_PORT",
        "jupyter": "JUPYTER_PORT",
        "acme-http": "HTTP_PORT",
        "acme-https": "HTTPS_PORT",
    }[port.name]


def ports(services: Iterable[ServiceSpec]) -> str:
    """Every published port as a variable."""
    return "\n".join(
        [
            "# where the services will be reached on this machine",
            *(f"{variable(service, port)}={port.published}" for service in services for port in service.ports),
        ]
    )


def values(files: Iterable[SecretFile], deployment: Deployment) -> list[str]:
    """One shell variable a secret: a fresh one, or the user's own for a store that is not ours."""
    if deployment.notebook_only:
        return [
            "JUPYTER_TOKEN=$(secret)",
            *(
                needed(name) if name.endswith("PASSWORD") else f"{name}=${{{name}:-}}"
                for file in files
                for name in file.names
                if name != "JUPYTER_TOKEN"
            ),
        ]
    given = deployment.object_store == "external"
    return [
        f': "${{{name}:?export the key of your object store first}}"'
        if given and name.startswith("S3_")
        else f"{name}="
        if name.startswith(FORMER)  # a new project has none
        else f"{name}=$({'fernet_key' if name == WEBHOOK_KEY else 'secret'})"
        for name in dict.fromkeys(name for file in files for name in file.names)
    ]


def printf(file: SecretFile) -> str:
    """The command that prints a secret file's text from the shell's variables."""
    order = re.findall(r"\{(\w+)\}", file.template)
    text = re.sub(r"\{\w+\}", "%s", file.template.replace("\\", "\\\\").replace("%", "%%")).replace("\n", "\\n")
    return " ".join(["printf", shlex.quote(text), *(f'"${name}"' for name in order)])


def tail(plan: Plan, deployment: Deployment, host: Host = LOCAL, login: Iterable[str] = ()) -> str:
    """The addresses at the end; ``login``: lines about who may log in."""
    ports = [f"${variable(service, port)}" for service in plan.services for port in service.ports]
    bound = deployment.settings.bind_address
    here = "" if bound == "127.0.0.1" else f"{bound}:"
    forwards = " ".join(f"-L {here}{port}:{bound}:{port}" for port in ports)
    tunnel = [f'echo "keep open here: ssh -N {forwards} {host.tunnel}"'] if host.remote else []
    asks = any(MLFLOW_TOKEN in file.names for file in plan.secrets) and not deployment.is_public
    at = f"https://{urls.public_name(deployment.settings)}" if deployment.is_public else f"http://{bound}"
    mlflow = (
        [f'echo "MLflow: {at}:$MLFLOW_PORT{"/?token=$MLFLOW_TOKEN" if asks else ""}"'] if "mlflow" in plan.names else []
    )
    return "\n".join(
        ["# ready", *tunnel, *mlflow, f'echo "JupyterLab: {at}:$JUPYTER_PORT/lab?token=$JUPYTER_TOKEN"', *login]
    )


def has_password(name: str, value: str) -> bool:
    """Whether a variable is a proxy with a login in it."""
    return name.upper() in site_network.PROXIES and "@" in value


def export(name: str, value: str) -> str:
    """A variable for the programs that the script runs; a proxy's password is the caller's to export."""
    return needed(name) if has_password(name, value) else f"export {name}={shlex.quote(value)}"


def needed(name: str) -> str:
    """A line that ends the script where a variable is not there; its value is a secret."""
    return f': "${{{name}:?export it first}}"'
