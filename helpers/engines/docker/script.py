"""A plan as plain docker commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from helpers.engines import jupyterlab, scripts
from helpers.engines.docker import images
from helpers.engines.docker.notebook_image import NotebookImage
from helpers.engines.host import LOCAL, Host
from helpers.services import DeviceRequest, Mount, PartSpec, Plan, SecretFile
from helpers.settings import Settings

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


def containers(plan: Plan, settings: Settings, notebook: NotebookImage, host: Host = LOCAL) -> str:
    """The whole script."""
    helper = plan.part("jupyter").image if settings.tracking_uri else settings.mlflow_image
    head = scripts.head(plan, "docker")
    if host.remote:
        head += f"\n# the engine of {host.name}, for every docker command below\nexport DOCKER_HOST={host.url}"
    blocks = [
        head,
        scripts.ports(plan.parts),
        "\n".join(_images(plan, settings, notebook)),
        "\n".join(
            [
                "# networks: the backend has no way out, only the frontend publishes ports",
                *(_network(n.name, n.internal, n.mtu) for n in plan.networks),
            ]
        ),
        "\n".join(
            [
                "# volumes outlive the containers; each belongs to the numeric user of its part",
                *(
                    line
                    for v in plan.volumes
                    for line in (
                        f"docker volume create {v.name} >/dev/null",
                        _in_volume(helper, v.name, f"chown {v.uid}:{v.gid} /v && chmod {v.mode:04o} /v"),
                    )
                ),
            ]
        ),
        "\n".join([scripts.SECRET, *scripts.values(plan.secrets, settings), *_secrets(plan.secrets, helper)]),
        AWAIT,
    ]
    started: set[str] = set()
    for part in plan.parts:
        waits = [_await(plan.part(name)) for name, condition in part.depends_on.items() if condition == "healthy"]
        blocks.append("\n".join([f"# {part.title}", *(w for w in waits if w not in started), *_run(part, host)]))
        started.update(waits)
    blocks.append("\n".join([_await(p) for p in plan.parts if p.health and _await(p) not in started]))
    blocks.append(scripts.tail(plan, settings, host, _login(plan, settings) if settings.public else ()))
    names = " ".join(p.container for p in reversed(plan.parts) if not p.one_shot)
    blocks.append(
        "\n".join(
            [
                "# clean up:",
                f"# docker rm -f {names}",
                f"# docker network rm {' '.join(n.name for n in plan.networks)}",
                f"# docker volume rm {' '.join(v.name for v in plan.volumes)}",
            ]
        )
    )
    return "\n\n".join(blocks)


def _images(plan: Plan, settings: Settings, notebook: NotebookImage) -> list[str]:
    lines = ["# our images are built when they are missing; the others are pulled by `docker create`"]
    for name in dict.fromkeys(part.image for part in plan.parts):
        folder = images.FOLDERS.get(name.rpartition(":")[0])
        if folder:
            told = "".join(
                f" \\\n  --build-arg {shlex.quote(f'{key}={value}')}"
                for key, value in images.arguments(name, settings, notebook).items()
            )
            network = "" if settings.build_network == "default" else f" --network {settings.build_network}"
            lines.append(
                f"docker image inspect {name} >/dev/null 2>&1 || docker build{network} --tag {name}{told} "
                f"docker/{folder}"
            )
    return lines


def _network(name: str, internal: bool, mtu: int) -> str:
    flags = (["--internal"] if internal else []) + ([f"--opt com.docker.network.driver.mtu={mtu}"] if mtu else [])
    return " ".join(["docker network create", *flags, name, ">/dev/null"])


def _in_volume(image: str, volume: str, command: str, stdin: bool = False) -> str:
    return (
        f"docker run --rm {'-i ' if stdin else ''}--user 0 --network none --entrypoint sh "
        f"-v {volume}:/v:nocopy {image} -c {shlex.quote(command)}"
    )


def _secrets(files: Iterable[SecretFile], image: str) -> list[str]:
    lines = []
    for file in files:
        command = (
            f"umask 077 && cat >/v/{file.path} && chown {file.uid}:{file.gid} /v/{file.path} "
            f"&& chmod {file.mode:04o} /v/{file.path}"
        )
        # printf is part of the shell: its arguments are in no process list
        lines.append(f"{scripts.printf(file)} |\n  {_in_volume(image, file.volume, command, stdin=True)}")
    return lines


def _mount(mount: Mount) -> str:
    if mount.kind == "tmpfs":
        return f"--tmpfs {shlex.quote(mount.target + (':' + mount.options if mount.options else ''))}"
    flags = ",".join(filter(None, ("ro" if mount.read_only else "", mount.options)))
    return f"-v {shlex.quote(f'{mount.source}:{mount.target}' + (':' + flags if flags else ''))}"


def _run(part: PartSpec, host: Host) -> list[str]:
    """The commands that make and start one container."""
    networks = sorted(part.networks, key=lambda name: not name.endswith("_frontend"))
    flags = [
        f"--name {part.container}",
        f"--hostname {part.hostname}",
        f"--network {networks[0]}",
        f"--network-alias {part.name}",
        f"--user {part.user}",
    ]
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
    flags += [f'-p "{port.address}:${scripts.variable(part, port)}:{port.target}"' for port in part.ports]
    flags += [_mount(mount) for mount in part.mounts]
    flags += [
        _environment_flag(name, value)
        for name, value in part.environment.items()
        if value != f"/run/secrets/{jupyterlab.CERTIFICATES}"
    ]  # no secret, and not among their files
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


def _login(plan: Plan, settings: Settings) -> list[str]:
    """A login of the gateway, as helpers/project/users.py writes it, and whom a client has to trust."""
    part = plan.part("gateway")
    volume = next(mount.source for mount in part.mounts if mount.target == "/run/secrets")
    users = next(file for file in plan.secrets if file.part == part.name and file.path == "users")
    command = f"cat >/v/users && chown {users.uid}:{users.gid} /v/users && chmod {users.mode:04o} /v/users"
    root = (
        []
        if settings.acme
        else [f'echo "the root of its certificates: docker exec {part.container} /usr/bin/gateway root"']
    )
    return [
        "# one login",
        "PASSWORD=$(secret)",
        "SALT=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')",
        'HASH=$({ printf "$(printf %s "$SALT" | sed \'s/../\\\\x&/g\')"; printf %s "$PASSWORD"; } | '
        "sha256sum | cut -d' ' -f1)",
        f'printf "user:%s:%s\\nend\\n" "$SALT" "$HASH" |\n  '
        f"{_in_volume(settings.mlflow_image, volume, command, stdin=True)}",
        'echo "login at MLflow: user, $PASSWORD"',
        *root,
    ]


def _environment_flag(name: str, value: str) -> str:
    """A proxy's password stays in the shell: with the name alone Docker takes it from there."""
    return f"-e {name}" if scripts.has_password(name, value) else f"-e {shlex.quote(f'{name}={value}')}"
