"""`up --dry-run`: the plan as the plain commands that a lab text would print. Starts nothing, holds no secret."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from helpers import access, addresses, egress, gateway, images, notebook, stack
from helpers.credentials import FORMER, MLFLOW_TOKEN, WEBHOOK_KEY
from helpers.engines import select
from helpers.engines.base import DeviceRequest, Mount, PartSpec, Plan, Port, SecretFile
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.embedded import EmbeddedEngine
from helpers.engines.host import Here, Host
from helpers.errors import SettingError
from helpers.settings import Settings, relevance
from helpers.system import System

_HERE = Here()
PORTS = ("mlflow_port", "jupyter_port", "s3_port", "s3_console_port")
SECRET = """\
# a random secret; it stays in this shell and in the files it is written to
secret() { head -c 24 /dev/urandom | base64 | tr '+/' 'xy' | tr -d '\\n'; }
fernet_key() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\\n'; }"""
AWAIT = """\
# wait until a command inside a container ends well; stop when the container has ended
await() {
  local container=$1; shift
  for _ in $(seq 120); do
    if docker exec "$container" "$@" >/dev/null 2>&1; then return; fi
    if [ "$(docker inspect -f '{{.State.Running}}' "$container")" != true ]; then
      docker logs --tail 20 "$container"; return 1
    fi
    sleep 1
  done
  echo "$container did not get ready" >&2; return 1
}"""


def script(system: System, name_prefix: str = "") -> str:
    """A bash script that does by hand what ``up`` would do. With a prefix: other names and free ports.

    Raises SettingError for a prefix that is no project name, EngineUnavailable as ``up`` would.
    """
    gateway.settle_address(system, lambda _: None)  # of PUBLIC: the script's gateway has to have a name, too
    settings = system.settings
    if name_prefix:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name_prefix):
            raise SettingError(f"--name-prefix={name_prefix}: must be 1 to 40 of a-z, 0-9, _ and -, "
                               "the first a letter or digit.")
        settings = beside(settings, name_prefix, is_free(system))
    # a script begins with nothing: a name that a restore gave to the live database is not known there
    state = replace(system.state, live={"database": "mlflow", "prefix": "live"})
    kept = replace(system, settings=settings, state=state)
    # a node has to be asked; here the plan can be made while the engine is down
    known = system.state.engine and not system.state.node
    engine = select.make(kept, system.state.engine) if known else select.choose(kept).engine
    relevance.check(engine)
    node = engine.host.url if isinstance(engine, DockerEngine) else ""
    gateway.check_settings(settings, engine.name, node)
    access.decide(kept, node)
    plan = engine.plan()
    if isinstance(engine, EmbeddedEngine):
        return _processes(plan, engine)
    return _containers(plan, engine.settings, engine.host if isinstance(engine, DockerEngine) else _HERE)


def is_free(system: System) -> Callable[[str, int], bool]:
    """What tells whether a port is free where the containers would be."""
    engine = select.current(system) if system.state.node or not system.state.engine else None
    return engine.host.is_free if isinstance(engine, DockerEngine) else addresses.is_free


def beside(settings: Settings, name: str, free: Callable[[str, int], bool] = addresses.is_free) -> Settings:
    """The same settings under another name, on ports that are free now."""
    own = [getattr(settings, field) for field in PORTS]  # the real system's, also when it is down
    taken: list[int] = []
    for field in PORTS:
        taken.append(addresses.next_free(settings.bind_address, getattr(settings, field) + 1, [*own, *taken], free))
    workspace = settings.state_dir / name / "workspace"
    mlflow, jupyter, s3, console = taken
    return replace(settings, project=name, workspace=workspace, mlflow_port=mlflow, jupyter_port=jupyter, s3_port=s3,
                   s3_console_port=console)


def _containers(plan: Plan, settings: Settings, host: Host = _HERE) -> str:
    helper = plan.part("jupyter").image if settings.tracking_uri else settings.mlflow_image
    head = _head(plan, "docker")
    if host.remote:
        head += f"\n# the engine of {host.name}, for every docker command below\nexport DOCKER_HOST={host.url}"
    blocks = [head, _ports(plan.parts), "\n".join(_images(plan, settings)),
              "\n".join(["# networks: the backend has no way out, only the frontend publishes ports",
                         *(_network(n.name, n.internal, n.mtu) for n in plan.networks)]),
              "\n".join(["# volumes outlive the containers; each belongs to the numeric user of its part",
                         *(line for v in plan.volumes for line in (
                             f"docker volume create {v.name} >/dev/null",
                             _in_volume(helper, v.name, f"chown {v.uid}:{v.gid} /v && chmod {v.mode:04o} /v")))]),
              "\n".join([SECRET, *_values(plan.secrets, settings), *_secrets(plan.secrets, helper)]),
              AWAIT]
    started: set[str] = set()
    for part in plan.parts:
        waits = [_await(plan.part(name)) for name, condition in part.depends_on.items() if condition == "healthy"]
        blocks.append("\n".join([f"# {part.title}", *(w for w in waits if w not in started), *_run(part, host)]))
        started.update(waits)
    blocks.append("\n".join([_await(p) for p in plan.parts if p.health and _await(p) not in started]))
    blocks.append(_tail(plan, settings, host))
    names = " ".join(p.container for p in reversed(plan.parts) if not p.one_shot)
    blocks.append("\n".join(["# clean up:", f"# docker rm -f {names}",
                             f"# docker network rm {' '.join(n.name for n in plan.networks)}",
                             f"# docker volume rm {' '.join(v.name for v in plan.volumes)}"]))
    return "\n\n".join(blocks)


def _head(plan: Plan, engine: str) -> str:
    return (f"#!/usr/bin/env bash\n# What `invoke up --engine={engine}` does for project {plan.project}, as plain "
            "commands. Run it with bash, in the clone.\nset -euo pipefail")


def _variable(part: PartSpec, port: Port) -> str:
    if part.name == "gateway" and port.name == "http":
        return "MLFLOW_PORT"
    return {"http": f"{part.name.upper()}_PORT", "s3": "S3_PORT", "console": "S3_CONSOLE_PORT",
            "jupyter": "JUPYTER_PORT", "acme-http": "HTTP_PORT", "acme-https": "HTTPS_PORT"}[port.name]


def _ports(parts: Iterable[PartSpec]) -> str:
    return "\n".join(["# where the parts will be reached on this machine",
                      *(f"{_variable(part, port)}={port.published}" for part in parts for port in part.ports)])


def _images(plan: Plan, settings: Settings) -> list[str]:
    lines = ["# our images are built when they are missing; the others are pulled by `docker create`"]
    for name in dict.fromkeys(part.image for part in plan.parts):
        folder = images.FOLDERS.get(name.rpartition(":")[0])
        if folder:
            told = "".join(f" \\\n  --build-arg {shlex.quote(f'{key}={value}')}" for key, value in
                           images.arguments(name, settings).items())
            network = "" if settings.build_network == "default" else f" --network {settings.build_network}"
            lines.append(f"docker image inspect {name} >/dev/null 2>&1 || docker build{network} --tag {name}{told} "
                         f"docker/{folder}")
    return lines


def _network(name: str, internal: bool, mtu: int) -> str:
    flags = (["--internal"] if internal else []) + ([f"--opt com.docker.network.driver.mtu={mtu}"] if mtu else [])
    return " ".join(["docker network create", *flags, name, ">/dev/null"])


def _in_volume(image: str, volume: str, command: str, stdin: bool = False) -> str:
    return (f"docker run --rm {'-i ' if stdin else ''}--user 0 --network none --entrypoint sh "
            f"-v {volume}:/v:nocopy {image} -c {shlex.quote(command)}")


def _values(files: Iterable[SecretFile], settings: Settings) -> list[str]:
    """One shell variable a secret: a fresh one, or the user's own for a store that is not ours."""
    if settings.tracking_uri:
        return ["JUPYTER_TOKEN=$(secret)", *(f': "${{{name}:?export it first}}"' if name.endswith("PASSWORD")
                                             else f"{name}=${{{name}:-}}" for file in files for name in file.names
                                             if name != "JUPYTER_TOKEN")]
    given = settings.object_store == "external"
    return [f': "${{{name}:?export the key of your object store first}}"' if given and name.startswith("S3_")
            else f"{name}=" if name.startswith(FORMER)  # a new system has none
            else f"{name}=$({'fernet_key' if name == WEBHOOK_KEY else 'secret'})"
            for name in dict.fromkeys(name for file in files for name in file.names)]


def _secrets(files: Iterable[SecretFile], image: str) -> list[str]:
    lines = []
    for file in files:
        command = (f"umask 077 && cat >/v/{file.path} && chown {file.uid}:{file.gid} /v/{file.path} "
                   f"&& chmod {file.mode:04o} /v/{file.path}")
        # printf is part of the shell: its arguments are in no process list
        lines.append(f"{_printf(file)} |\n  {_in_volume(image, file.volume, command, stdin=True)}")
    return lines


def _printf(file: SecretFile) -> str:
    order = re.findall(r"\{(\w+)\}", file.template)
    text = re.sub(r"\{\w+\}", "%s", file.template.replace("\\", "\\\\").replace("%", "%%")).replace("\n", "\\n")
    return " ".join(["printf", shlex.quote(text), *(f'"${name}"' for name in order)])


def _mount(mount: Mount) -> str:
    if mount.kind == "tmpfs":
        return f"--tmpfs {shlex.quote(mount.target + (':' + mount.options if mount.options else ''))}"
    flags = ",".join(filter(None, ("ro" if mount.read_only else "", mount.options)))
    return f"-v {shlex.quote(f'{mount.source}:{mount.target}' + (':' + flags if flags else ''))}"


def _run(part: PartSpec, host: Host) -> list[str]:
    """The commands that make and start one container."""
    networks = sorted(part.networks, key=lambda name: not name.endswith("_frontend"))
    flags = [f"--name {part.container}", f"--hostname {part.hostname}", f"--network {networks[0]}",
             f"--network-alias {part.name}", f"--user {part.user}"]
    flags += ["--read-only"] if part.read_only else []
    flags += [f"--cap-drop {cap}" for cap in part.cap_drop]
    flags += [f"--security-opt {option}" for option in part.security_opt]
    flags += [f"--group-add {group}" for group in part.group_add]
    flags += [f"--device {path}" for path in part.devices]
    flags += [_request(request) for request in part.device_requests]
    flags += [f"--ulimit {name}={limit}" for name, limit in part.ulimits.items()]
    flags += [f"--restart {part.restart}"] if part.restart not in ("", "no") else []
    flags += [f"--shm-size {part.shm_size}"] if part.shm_size else []
    flags += [f"--memory {part.memory}"] if part.memory else []
    flags += [f"--pids-limit {part.pids}"] if part.pids else []
    flags += [f"--stop-signal {part.stop_signal}"] if part.stop_signal else []
    flags += [f"--stop-timeout {part.stop_grace}"]
    flags += [f"--workdir {part.working_dir}"] if part.working_dir else []
    flags += [f'-p "{port.address}:${_variable(part, port)}:{port.target}"' for port in part.ports]
    flags += [_mount(mount) for mount in part.mounts]
    flags += [_environment_flag(name, value) for name, value in part.environment.items()
              if value != f"/run/secrets/{notebook.CERTIFICATES}"]  # no secret, and not among their files
    command = list(part.command)
    if part.entrypoint:
        flags.append(f"--entrypoint {shlex.quote(part.entrypoint[0])}")
        command = [*part.entrypoint[1:], *command]
    lines = []
    for mount in part.mounts:
        if mount.kind == "bind":
            owner = part.user
            folder = shlex.quote(mount.source)
            made = f'[ -d {folder} ] || {{ mkdir -p {folder}; [ "$(id -u)" != 0 ] || chown {owner} {folder}; }}'
            if host.remote:
                made = f"ssh {host.tunnel} {shlex.quote(f'sh -c {shlex.quote(made)}')}"
            lines.append(made)
    words = [*flags, " ".join([part.image, shlex.join(command)]).strip()]
    if len(networks) == 1 and not part.one_shot:
        return [*lines, "docker run --detach " + " \\\n  ".join(words) + " >/dev/null"]
    lines.append("docker create " + " \\\n  ".join(words) + " >/dev/null")
    lines += [f"docker network connect --alias {part.name} {name} {part.container}" for name in networks[1:]]
    if part.one_shot:
        lines += [f"docker start -a {part.container}", f"docker rm {part.container} >/dev/null"]
    else:
        lines.append(f"docker start {part.container} >/dev/null")
    return lines


def _request(request: DeviceRequest) -> str:
    if request.driver == "cdi":
        return " ".join(f"--device {name}" for name in request.ids)
    if request.ids == ("all",):
        return "--gpus all"
    return f"--gpus '\"device={','.join(request.ids)}\"'"


def _await(part: PartSpec) -> str:
    return f"await {part.container} {shlex.join(part.health.argv)}" if part.health else ""


def _tail(plan: Plan, settings: Settings, host: Host = _HERE) -> str:
    ports = [f"${_variable(part, port)}" for part in plan.parts for port in part.ports]
    bound = settings.bind_address
    here = "" if bound == "127.0.0.1" else f"{bound}:"
    forwards = " ".join(f"-L {here}{port}:{bound}:{port}" for port in ports)
    tunnel = [f'echo "keep open here: ssh -N {forwards} {host.tunnel}"'] if host.remote else []
    asks = any(MLFLOW_TOKEN in file.names for file in plan.secrets) and not settings.public
    at = f"https://{stack.public_name(settings)}" if settings.public else f"http://{bound}"
    mlflow = [f'echo "MLflow: {at}:$MLFLOW_PORT{"/?token=$MLFLOW_TOKEN" if asks else ""}"'] \
        if "mlflow" in plan.names else []
    return "\n".join(["# ready", *tunnel, *mlflow, f'echo "JupyterLab: {at}:$JUPYTER_PORT/lab?token=$JUPYTER_TOKEN"',
                      *(_login(plan, settings) if settings.public else ())])


def _login(plan: Plan, settings: Settings) -> list[str]:
    """A login of the gateway, as helpers/users.py writes it, and whom a client has to trust."""
    part = plan.part("gateway")
    volume = next(mount.source for mount in part.mounts if mount.target == "/run/secrets")
    users = next(file for file in plan.secrets if file.part == part.name and file.path == "users")
    command = f"cat >/v/users && chown {users.uid}:{users.gid} /v/users && chmod {users.mode:04o} /v/users"
    root = [] if settings.acme else [f'echo "the root of its certificates: docker exec {part.container} '
                                     '/usr/bin/gateway root"']
    return ["# one login", "PASSWORD=$(secret)", "SALT=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')",
            'HASH=$({ printf "$(printf %s "$SALT" | sed \'s/../\\\\x&/g\')"; printf %s "$PASSWORD"; } | '
            "sha256sum | cut -d' ' -f1)",
            f'printf "user:%s:%s\\nend\\n" "$SALT" "$HASH" |\n  '
            f"{_in_volume(settings.mlflow_image, volume, command, stdin=True)}",
            'echo "login at MLflow: user, $PASSWORD"', *root]


def _processes(plan: Plan, engine: EmbeddedEngine) -> str:
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
        _head(plan, "embedded"),
        f"STATE={shlex.quote(base)}\n"
        '[ "$(id -u)" != 0 ] || { echo "PostgreSQL does not run as root: use another user" >&2; exit 1; }',
        _ports(plan.parts),
    ]
    names = ("app/startup", "tmp", "secrets", "artifacts", "logs", "jupyter")
    folders = " ".join([*(f'"$STATE"/{name}' for name in names), word(run), word(workspace)])
    lines = ["# folders, and one venv per lock", f"mkdir -p {folders}",
             f'chmod 700 "$STATE"/secrets {word(run)}',
             'cp docker/mlflow/*.py docker/mlflow/schema.sql "$STATE"/app/',
             'cp -r docker/jupyter/startup/. "$STATE"/app/startup/']
    for venv, lock in engine.locks():
        lines += [f"uv venv --quiet --clear --seed {word(venv)}",
                  f"uv pip sync --quiet --require-hashes --python {word(venv + '/bin/python')} {lock}"]
    python, scripts = plan.part("jupyter").command[0], plan.part("jupyter").environment["PATH"].split(":")[1]
    lines += [f"ln -sfn bin {word(scripts)}", "# the notebook's own environment, over its venv",
              f"{word(str(Path(scripts).with_name('bin') / 'python'))} -I helpers/engines/overlay.py "
              f"{word(str(Path(python).parent.parent))}"]
    # the venv's Python version shows in its paths: the shell finds it
    found = word(tools.rstrip("/")).replace("/lib/python3/", "/lib/python3*/")
    lines.append(f"PG=$(echo {found})")
    blocks.append("\n".join(lines))
    secrets = [SECRET, *_values(plan.secrets, engine.settings)]
    secrets += [f"(umask 077; {_printf(file)} >{word(file.volume + '/' + file.path)})" for file in plan.secrets]
    blocks.append("\n".join(secrets))
    alone = "mlflow" not in plan.names
    blocks.append("" if alone else "\n".join([
        "# the database: only its own user gets in, over a socket in a private folder",
        f"{word(engine.tool('initdb'))} -D {word(database)} -U {stack.DATABASE_ADMIN} -A peer \\\n"
        "  --encoding=UTF8 --locale=C.UTF-8 --data-checksums >/dev/null",
        "echo 'local all all peer map=trackbed' >\"$STATE\"/app/pg_hba.conf",
        f'printf "trackbed $(id -un) %s\\n" {stack.DATABASE_ADMIN} {stack.DATABASE_USER} \\\n'
        '  >"$STATE"/app/pg_ident.conf']))
    for part in plan.parts:
        blocks.append(_process(part, word))
        if part.name == "postgres":
            psql = f"{word(engine.tool('psql'))} -X -q -h {word(run)} -U {stack.DATABASE_ADMIN} -d postgres"
            blocks.append(f"for _ in $(seq 60); do {psql} -c 'SELECT 1' >/dev/null 2>&1 && break; sleep 1; done\n"
                          "# the server's role is no superuser: it owns its database\n"
                          f"{psql} -c 'CREATE ROLE {stack.DATABASE_USER} LOGIN' \\\n"
                          f"  -c 'CREATE DATABASE {engine.system.state.live['database']} OWNER {stack.DATABASE_USER}'")
    # curl may not be there
    ask = ("import os, sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], "
           'headers=dict(Authorization="Bearer " + os.environ["TOKEN"])))')
    for name, path in (("jupyter", "api"),) if alone else (("jupyter", "api"), ("mlflow", "health")):
        python, url = word(plan.part(name).command[0]), f'"http://{engine.settings.bind_address}:${name.upper()}_PORT/{path}"'
        token = '"${MLFLOW_TOKEN-}"' if name == "mlflow" else ""
        blocks.append(f"for _ in $(seq 120); do\n  TOKEN={token} {python} -c '{ask}' {url} 2>/dev/null && break\n"
                      "  sleep 1\ndone")
    blocks.append(_tail(plan, engine.settings))
    blocks.append("\n".join(["# clean up:", 'echo "to stop: kill $JUPYTER_PID"' if alone else
                             'echo "to stop: kill $JUPYTER_PID $MLFLOW_PID; kill -INT $POSTGRES_PID"',
                             "# rm -rf " + shlex.quote(base)]))
    return "\n\n".join(blocks)


def _has_password(name: str, value: str) -> bool:
    return name.upper() in egress.PROXIES and "@" in value


def _environment_flag(name: str, value: str) -> str:
    """A proxy's password stays in the shell: with the name alone Docker takes it from there."""
    return f"-e {name}" if _has_password(name, value) else f"-e {shlex.quote(f'{name}={value}')}"


def _process(part: PartSpec, word: Callable[[str], str]) -> str:
    """One process in the background, its environment without what the shell has anyway."""
    environment = []
    for name, value in part.environment.items():
        if name == "PATH":
            own = value.partition("/scripts:")  # what comes after is the machine's
            environment.append(f'PATH={word((own[0] + "/scripts") if own[1] else own[0].split(":")[0])}:"$PATH"')
        elif value != os.environ.get(name) and not _has_password(name, value) \
                and not value.endswith(f"/{notebook.CERTIFICATES}"):
            environment.append(f"{name}={word(value)}")
    lines = [f"# {part.title}", f"(cd {word(part.working_dir)} && exec env \\"]
    lines += [f"  {line} \\" for line in environment]
    lines += [f"  {' '.join(word(w) for w in part.command)} \\",
              f'  >"$STATE"/logs/{part.name}.log 2>&1 </dev/null) &', f"{part.name.upper()}_PID=$!"]
    return "\n".join(lines)
