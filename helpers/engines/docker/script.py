"""A plan as plain docker commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace

from helpers import shell_words, site_network
from helpers.engines import jupyterlab, scripts
from helpers.engines.docker import argv, container_options, images
from helpers.engines.docker.deployment import DockerDeployment
from helpers.engines.host import Host
from helpers.engines.notebook_image import NotebookImage
from helpers.gpu.accelerator import Accelerator
from helpers.services import Mount, Plan, SecretFile, ServiceSpec
from helpers.settings import Settings
from helpers.shell_words import ShellText

AWAIT = """\
# wait until a command inside a container ends well; stop when the container has ended
await() {
  local container=$1 end=$((SECONDS + 120)); shift
  while [ "$SECONDS" -lt "$end" ]; do
    if docker exec "$container" "$@" >/dev/null 2>&1; then return; fi
    if [ "$(docker inspect -f '{{.State.Running}}' "$container")" != true ]; then
      docker logs --tail 20 "$container"; return 1
    fi
    sleep 1
  done
  echo "$container did not get ready" >&2; return 1
}"""


def containers(
    plan: Plan, deployment: DockerDeployment, notebook: NotebookImage, gpu: Accelerator | None = None
) -> str:
    """The whole script. ``gpu``: what the notebook is given, where it may be another machine's."""
    settings, host = deployment.settings, deployment.host
    helper = plan.service("jupyter").image if deployment.notebook_only else settings.mlflow_image
    head = scripts.head(plan, "docker")
    if host.remote:
        head += f"\n# the engine of {host.name}, for every docker command below\nexport DOCKER_HOST={host.url}"
    blocks = [
        head,
        scripts.ports(plan.services),
        "\n".join(_images(plan, settings, notebook)),
        "\n".join(
            [
                "# networks: the backend has no way out, only the frontend publishes ports",
                *(f"{shell_words.line(argv.create_network(network))} >/dev/null" for network in plan.networks),
            ]
        ),
        "\n".join(_volumes(plan, helper)),
        "\n".join([scripts.SECRET, *scripts.values(plan.secrets, deployment), *_secrets(plan.secrets, helper)]),
        AWAIT,
    ]
    started: set[str] = set()
    for service in plan.services:
        waits = [_await(plan.service(name)) for name, condition in service.depends_on.items() if condition == "healthy"]
        blocks.append("\n".join([f"# {service.title}", *(w for w in waits if w not in started), *run(service, host)]))
        started.update(waits)
    blocks.append("\n".join([_await(p) for p in plan.services if p.health and _await(p) not in started]))
    blocks.append(scripts.tail(plan, deployment, host, _login(plan, settings) if deployment.is_public else ()))
    blocks.append(_clean_up(plan))
    if gpu:
        blocks.insert(1, scripts.placeholders(gpu, "\n".join(blocks)))
    return "\n\n".join(filter(None, blocks))


def _clean_up(plan: Plan) -> str:
    names = " ".join(p.container for p in reversed(plan.services) if not p.one_shot)
    return "\n".join(
        [
            "# clean up:",
            f"# docker rm -f {names}",
            f"# docker network rm {' '.join(n.name for n in plan.networks)}",
            f"# docker volume rm {' '.join(v.name for v in plan.volumes)}",
        ]
    )


def _volumes(plan: Plan, image: str) -> list[str]:
    lines = ["# volumes outlive the containers; each belongs to the numeric user of its service"]
    for volume in plan.volumes:
        lines.append(f"docker volume create {volume.name} >/dev/null")
        owned = f"chown {volume.uid}:{volume.gid} /v && chmod {volume.mode:04o} /v"
        lines.append(_in_volume(image, volume.name, owned))
    return lines


def _images(plan: Plan, settings: Settings, notebook: NotebookImage) -> list[str]:
    lines = ["# our images are built when they are missing; the others are pulled by `docker create`"]
    names = [name for name in dict.fromkeys(service.image for service in plan.services) if images.is_own(name)]
    bundles = site_network.files(site_network.of_machine(settings, {}).bundles) if names else ()
    if names:
        lines += [scripts.export(name, value) for name, value in images.proxies(settings).items()]
    if bundles:
        only = "/-----BEGIN CERTIFICATE-----/,/-----END CERTIFICATE-----/"  # no key that stands beside them
        lines.append(f"CA=$(mktemp) && awk '{only}' {shlex.join(bundles)} >\"$CA\"  # the site's certificates")
    for name in names:
        lines += [scripts.needed(variable) for variable in images.secrets(name, settings)]
        command = images.build_command(name, settings, notebook, bundle=ShellText('"$CA"') if bundles else "")
        lines.append(f"docker image inspect {name} >/dev/null 2>&1 || {_folded(command, '--build-arg')}")
    if bundles:
        lines.append('rm -f "$CA"')
    return lines


def _folded(command: list[str], flag: str) -> str:
    """A command with a line of its own for each of that flag."""
    return shell_words.line(command).replace(f" {flag} ", f" \\\n  {flag} ")


def _in_volume(image: str, volume: str, command: str, stdin: bool = False) -> str:
    return shell_words.line(argv.in_volume(image, volume, command, stdin))


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


def _folder(service: ServiceSpec, mount: Mount, host: Host) -> str:
    """Make the folder of a bind mount where it is missing, on the machine of the engine."""
    folder = shlex.quote(mount.source)
    closed = f" && chmod 700 {folder}" if mount.target == service.working_dir else ""  # the workspace, as `up` does
    made = f"mkdir -p {folder}{closed}"
    created = f'[ -d {folder} ] || {{ {made}; [ "$(id -u)" != 0 ] || chown {service.user} {folder}; }}'
    return f"ssh {host.tunnel} {shlex.quote(f'sh -c {shlex.quote(created)}')}" if host.remote else created


def run(service: ServiceSpec, host: Host) -> list[str]:
    """The commands that make and start one container."""
    lines = [_folder(service, mount, host) for mount in service.mounts if mount.kind == "bind"]
    # the certificates of this site are no secret, and not among the files of secrets
    environment = {n: v for n, v in service.environment.items() if v != f"/run/secrets/{jupyterlab.CERTIFICATES}"}
    options = container_options.argv(replace(service, environment=environment))
    flags = " \\\n  ".join(map(shell_words.line, options))
    others = [name for name in service.networks if name != container_options.first_network(service)]
    if not others and not service.one_shot:
        return [*lines, f"docker run --detach {flags} >/dev/null"]
    lines.append(f"docker create {flags} >/dev/null")
    lines += [f"docker network connect --alias {service.name} {name} {service.container}" for name in others]
    if service.one_shot:
        return [*lines, f"docker start -a {service.container}", f"docker rm {service.container} >/dev/null"]
    return [*lines, f"docker start {service.container} >/dev/null"]


def _await(service: ServiceSpec) -> str:
    return f"await {service.container} {shlex.join(service.health.argv)}" if service.health else ""


def _login(plan: Plan, settings: Settings) -> list[str]:
    """A login of the gateway, as helpers/project/users.py writes it, and whom a client has to trust."""
    service = plan.service("gateway")
    volume = next(mount.source for mount in service.mounts if mount.target == "/run/secrets")
    users = next(file for file in plan.secrets if file.service == service.name and file.path == "users")
    command = f"cat >/v/users && chown {users.uid}:{users.gid} /v/users && chmod {users.mode:04o} /v/users"
    root = (
        []
        if settings.acme
        else [f'echo "the root of its certificates: docker exec {service.container} /usr/bin/gateway root"']
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
