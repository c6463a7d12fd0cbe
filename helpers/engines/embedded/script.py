"""The embedded engine's plan as plain commands; under the real one supervisor starts and restarts the processes."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from helpers import clone, database_settings
from helpers.engines import jupyterlab, scripts
from helpers.engines.embedded import venvs
from helpers.engines.embedded.deployment import EmbeddedDeployment
from helpers.engines.embedded.environments import Environments
from helpers.gpu import wheels
from helpers.services import JUPYTER, MLFLOW, POSTGRES, Plan, ServiceSpec

FOLDERS = ("app/startup", "tmp", "secrets", "artifacts", "logs", "jupyter")
OVERLAY = "helpers/engines/embedded/overlay.py"  # in the clone
# asks an address with a token; curl may not be there
ASK = (
    "import os, sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], "
    'headers=dict(Authorization="Bearer " + os.environ["TOKEN"])))'
)


def processes(plan: Plan, deployment: EmbeddedDeployment, environments: Environments) -> str:
    """The embedded engine's processes by hand."""
    script = _Script(plan, deployment, environments)
    blocks = [
        scripts.head(plan, "embedded"),
        scripts.placeholders(deployment.accelerator, ""),
        script.not_root(),
        scripts.ports(plan.services),
        script.installation(),
        script.secrets(),
        script.database() if POSTGRES in plan.names else "",
    ]
    for service in plan.services:
        blocks.append(script.process(service))
        if service.name == POSTGRES:
            blocks.append(script.roles())
    blocks += [script.wait(name, path) for name, path in ((JUPYTER, "api"), (MLFLOW, "health")) if name in plan.names]
    blocks += [scripts.tail(plan, deployment), script.cleaning_up()]
    return "\n\n".join(filter(None, blocks))


class _Script:
    """The blocks of the script; paths below the state folder as $STATE, PostgreSQL's programs as $PG."""

    def __init__(self, plan: Plan, deployment: EmbeddedDeployment, environments: Environments) -> None:
        self.plan, self.deployment, self.environments = plan, deployment, environments
        self.state, self.tools = str(deployment.folder), f"{environments.programs}/"
        self.sockets = self.word(str(deployment.layout.sockets))

    def word(self, text: str) -> str:
        """Quoted for the shell."""
        if text.startswith(self.tools):
            return f'"$PG"/{text.removeprefix(self.tools)}'
        pieces = [shlex.quote(piece) if piece else "" for piece in text.split(self.state)]
        return '"$STATE"'.join(pieces) or "''"

    def line(self, argv: list[str]) -> str:
        """A command; files in the clone as seen from there."""
        return " ".join(self.word(word.removeprefix(f"{clone.ROOT}/")) for word in argv)

    def program(self, name: str) -> str:
        return self.word(self.environments.program(name))

    def not_root(self) -> str:
        return (
            f"STATE={shlex.quote(self.state)}\n"
            '[ "$(id -u)" != 0 ] || { echo "PostgreSQL does not run as root: use another user" >&2; exit 1; }'
        )

    def installation(self) -> str:
        folders = [f'"$STATE"/{name}' for name in FOLDERS]
        folders += [self.sockets, self.word(str(self.deployment.workspace))]
        notebook_spec = self.plan.service(JUPYTER)
        python, programs = notebook_spec.command[0], notebook_spec.environment["PATH"].split(":")[1]
        interpreter = str(Path(programs).with_name("bin") / "python")
        # the venv's Python version shows in its paths: the shell finds it
        tools = self.word(self.tools.rstrip("/")).replace("/lib/python3/", "/lib/python3*/")
        return "\n".join(
            [
                "# folders, and one venv per lock",
                f"mkdir -p {' '.join(folders)}",
                f'chmod 700 "$STATE"/secrets {self.sockets}',
                'cp -r docker/mlflow/start.py docker/mlflow/trackbed_mlflow* "$STATE"/app/',
                'cp -r docker/jupyter/startup/* docker/jupyter/trackbed_notebook* "$STATE"/app/startup/',
                *self._venvs(),
                f"ln -sfn bin {self.word(programs)}",
                "# the notebook's own environment, over its venv",
                f"{self.word(interpreter)} -I {OVERLAY} {self.word(str(Path(python).parent.parent))}",
                f"PG=$(echo {tools})",
            ]
        )

    def _venvs(self) -> list[str]:
        lines = []
        for venv in self.environments.required():
            for argv in venv.commands("uv"):
                extra = venv.installed_by(argv)
                if extra and extra.secret:
                    lines.append(scripts.needed(wheels.WITH_LOGIN))
                    lines.append(f'{venvs.DEFAULT_INDEX}="${wheels.WITH_LOGIN}" {self.line(argv)}')
                else:
                    lines.append(self.line(argv))
        return lines

    def secrets(self) -> str:
        files = [
            f"(umask 077; {scripts.printf(file)} >{self.word(f'{file.volume}/{file.path}')})"
            for file in self.plan.secrets
        ]
        return "\n".join([scripts.SECRET, *scripts.values(self.plan.secrets, self.deployment), *files])

    def database(self) -> str:
        return "\n".join(
            [
                "# the database: only its own user gets in, over a socket in a private folder",
                f"{self.line(self.environments.initdb(self.deployment.database_folder))} >/dev/null",
                "echo 'local all all peer map=trackbed' >\"$STATE\"/app/pg_hba.conf",
                f'printf "trackbed $(id -un) %s\\n" {database_settings.ADMIN} {database_settings.USER} \\\n'
                '  >"$STATE"/app/pg_ident.conf',
            ]
        )

    def roles(self) -> str:
        psql = f"{self.program('psql')} -X -q -h {self.sockets} -U {database_settings.ADMIN} -d postgres"
        active = self.deployment.project.state.active["database"]
        return (
            f"for _ in $(seq 60); do {psql} -c 'SELECT 1' >/dev/null 2>&1 && break; sleep 1; done\n"
            "# the server's role is no superuser: it owns its database\n"
            f"{psql} -c 'CREATE ROLE {database_settings.USER} LOGIN' \\\n"
            f"  -c 'CREATE DATABASE {active} OWNER {database_settings.USER}'"
        )

    def process(self, service: ServiceSpec) -> str:
        """One process in the background, its environment without what the shell has anyway."""
        assignments = [self._assignment(name, value) for name, value in service.environment.items()]
        return "\n".join(
            [
                f"# {service.title}",
                f"(cd {self.word(service.working_dir)} && exec env \\",
                *(f"  {assignment} \\" for assignment in assignments if assignment),
                f"  {' '.join(map(self.word, service.command))} \\",
                f'  >"$STATE"/logs/{service.name}.log 2>&1 </dev/null) &',
                f"{service.name.upper()}_PID=$!",
            ]
        )

    def _assignment(self, name: str, value: str) -> str:
        """ "" for what the shell has anyway, for passwords, and for files that only the engine makes."""
        if name == "PATH":
            own, scripts_folder, _ = value.partition("/scripts:")  # what comes after is the machine's
            return f'PATH={self.word(own + "/scripts" if scripts_folder else own.split(":")[0])}:"$PATH"'
        if value == os.environ.get(name) or scripts.has_password(name, value):
            return ""
        return "" if value.endswith(f"/{jupyterlab.CERTIFICATES}") else f"{name}={self.word(value)}"

    def wait(self, service: str, path: str) -> str:
        """Until it answers."""
        python = self.word(self.plan.service(service).command[0])
        url = f'"http://{self.deployment.settings.bind_address}:${service.upper()}_PORT/{path}"'
        token = '"${MLFLOW_TOKEN-}"' if service == MLFLOW else ""
        return (
            f"for _ in $(seq 120); do\n  TOKEN={token} {python} -c '{ASK}' {url} 2>/dev/null && break\n  sleep 1\ndone"
        )

    def cleaning_up(self) -> str:
        stop = "kill $JUPYTER_PID"
        if MLFLOW in self.plan.names:
            stop += " $MLFLOW_PID; kill -INT $POSTGRES_PID"
        return f'# clean up:\necho "to stop: {stop}"\n# rm -rf {shlex.quote(self.state)}'
