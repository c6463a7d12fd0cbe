"""The embedded engine's plan as plain commands."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import notebook, stack
from helpers.engines import scripts
from helpers.services import PartSpec, Plan

if TYPE_CHECKING:
    from helpers.engines.embedded.engine import EmbeddedEngine


def processes(plan: Plan, engine: EmbeddedEngine) -> str:
    """The embedded engine's processes by hand; under the real one supervisor starts and restarts them."""
    base, tools = str(engine.folder), engine.tool("")

    def word(text: str) -> str:
        """Quoted for the shell, with the long path of the folder as $STATE."""
        if text.startswith(tools):
            return f'"$PG"/{text.removeprefix(tools)}'
        pieces = [shlex.quote(piece) if piece else "" for piece in text.split(base)]
        return '"$STATE"'.join(pieces) or "''"

    run, database, workspace = str(engine.layout.sockets), str(engine.database_folder), str(engine.settings.workspace)
    blocks = [
        scripts.head(plan, "embedded"),
        f"STATE={shlex.quote(base)}\n"
        '[ "$(id -u)" != 0 ] || { echo "PostgreSQL does not run as root: use another user" >&2; exit 1; }',
        scripts.ports(plan.parts),
    ]
    names = ("app/startup", "tmp", "secrets", "artifacts", "logs", "jupyter")
    folders = " ".join([*(f'"$STATE"/{name}' for name in names), word(run), word(workspace)])
    lines = [
        "# folders, and one venv per lock",
        f"mkdir -p {folders}",
        f'chmod 700 "$STATE"/secrets {word(run)}',
        'cp -r docker/mlflow/start.py docker/mlflow/trackbed_mlflow "$STATE"/app/',
        'cp -r docker/jupyter/startup/. "$STATE"/app/startup/',
    ]
    for venv, lock, extras in engine.locks():
        interpreter = word(venv + "/bin/python")
        lines += [
            f"uv venv --quiet --clear --seed {word(venv)}",
            f"uv pip sync --quiet --require-hashes --python {interpreter} {lock}",
            *(f"uv pip install --quiet --python {interpreter} {shlex.join(extra)}" for extra in extras),
        ]
    python, programs = plan.part("jupyter").command[0], plan.part("jupyter").environment["PATH"].split(":")[1]
    lines += [
        f"ln -sfn bin {word(programs)}",
        "# the notebook's own environment, over its venv",
        f"{word(str(Path(programs).with_name('bin') / 'python'))} -I helpers/engines/embedded/overlay.py "
        f"{word(str(Path(python).parent.parent))}",
    ]
    # the venv's Python version shows in its paths: the shell finds it
    found = word(tools.rstrip("/")).replace("/lib/python3/", "/lib/python3*/")
    lines.append(f"PG=$(echo {found})")
    blocks.append("\n".join(lines))
    secrets = [scripts.SECRET, *scripts.values(plan.secrets, engine.settings)]
    secrets += [f"(umask 077; {scripts.printf(file)} >{word(file.volume + '/' + file.path)})" for file in plan.secrets]
    blocks.append("\n".join(secrets))
    alone = "mlflow" not in plan.names
    blocks.append(
        ""
        if alone
        else "\n".join(
            [
                "# the database: only its own user gets in, over a socket in a private folder",
                f"{word(engine.tool('initdb'))} -D {word(database)} -U {stack.DATABASE_ADMIN} -A peer \\\n"
                "  --encoding=UTF8 --locale=C.UTF-8 --data-checksums >/dev/null",
                "echo 'local all all peer map=trackbed' >\"$STATE\"/app/pg_hba.conf",
                f'printf "trackbed $(id -un) %s\\n" {stack.DATABASE_ADMIN} {stack.DATABASE_USER} \\\n'
                '  >"$STATE"/app/pg_ident.conf',
            ]
        )
    )
    for part in plan.parts:
        blocks.append(_process(part, word))
        if part.name == "postgres":
            psql = f"{word(engine.tool('psql'))} -X -q -h {word(run)} -U {stack.DATABASE_ADMIN} -d postgres"
            blocks.append(
                f"for _ in $(seq 60); do {psql} -c 'SELECT 1' >/dev/null 2>&1 && break; sleep 1; done\n"
                "# the server's role is no superuser: it owns its database\n"
                f"{psql} -c 'CREATE ROLE {stack.DATABASE_USER} LOGIN' \\\n"
                f"  -c 'CREATE DATABASE {engine.system.state.live['database']} OWNER {stack.DATABASE_USER}'"
            )
    # curl may not be there
    ask = (
        "import os, sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], "
        'headers=dict(Authorization="Bearer " + os.environ["TOKEN"])))'
    )
    for name, path in (("jupyter", "api"),) if alone else (("jupyter", "api"), ("mlflow", "health")):
        python, url = (
            word(plan.part(name).command[0]),
            f'"http://{engine.settings.bind_address}:${name.upper()}_PORT/{path}"',
        )
        token = '"${MLFLOW_TOKEN-}"' if name == "mlflow" else ""
        blocks.append(
            f"for _ in $(seq 120); do\n  TOKEN={token} {python} -c '{ask}' {url} 2>/dev/null && break\n  sleep 1\ndone"
        )
    blocks.append(scripts.tail(plan, engine.settings))
    blocks.append(
        "\n".join(
            [
                "# clean up:",
                'echo "to stop: kill $JUPYTER_PID"'
                if alone
                else 'echo "to stop: kill $JUPYTER_PID $MLFLOW_PID; kill -INT $POSTGRES_PID"',
                "# rm -rf " + shlex.quote(base),
            ]
        )
    )
    return "\n\n".join(blocks)


def _process(part: PartSpec, word: Callable[[str], str]) -> str:
    """One process in the background, its environment without what the shell has anyway."""
    environment = []
    for name, value in part.environment.items():
        if name == "PATH":
            own = value.partition("/scripts:")  # what comes after is the machine's
            environment.append(f'PATH={word((own[0] + "/scripts") if own[1] else own[0].split(":")[0])}:"$PATH"')
        elif (
            value != os.environ.get(name)
            and not scripts.has_password(name, value)
            and not value.endswith(f"/{notebook.CERTIFICATES}")
        ):
            environment.append(f"{name}={word(value)}")
    lines = [f"# {part.title}", f"(cd {word(part.working_dir)} && exec env \\"]
    lines += [f"  {line} \\" for line in environment]
    lines += [
        f"  {' '.join(word(w) for w in part.command)} \\",
        f'  >"$STATE"/logs/{part.name}.log 2>&1 </dev/null) &',
        f"{part.name.upper()}_PID=$!",
    ]
    return "\n".join(lines)
