"""The words of docker commands, as `up` runs them and `--dry-run` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from helpers.engines import scripts
from helpers.services import DeviceRequest, Mount, Network, Port, ServiceSpec
from helpers.shell_words import ShellText


def build(
    name: str, folder: str, arguments: Mapping[str, str], network: str, proxies: Iterable[str] = (), bundle: str = ""
) -> list[str]:
    """Build an image from a folder. ``network``: for its RUN steps, "default" for the builder's own.

    ``proxies``: variables, whose values Docker takes from its caller's environment. ``bundle``: a file of certificates.
    """
    words = ["docker", "buildx", "build", "--load", *([] if network == "default" else ["--network", network])]
    words += ["--tag", name]
    for key, value in arguments.items():
        words += ["--build-arg", f"{key}={value}"]
    for variable in proxies:
        words += ["--build-arg", variable]
    if bundle:
        words += ["--secret", type(bundle)(f"id=ca,src={bundle}")]  # what a shell expands goes on being that
    return [*words, folder]


def create_network(network: Network) -> list[str]:
    internal = ["--internal"] if network.internal else []
    mtu = ["--opt", f"com.docker.network.driver.mtu={network.mtu}"] if network.mtu else []
    return ["docker", "network", "create", *internal, *mtu, network.name]


def in_volume(image: str, volume: str, command: str, stdin: bool = False) -> list[str]:
    """A shell command as root over a volume at /v, without a network."""
    return [
        *("docker", "run", "--rm", *(["-i"] if stdin else []), "--user", "0", "--network", "none"),
        *("--entrypoint", "sh", "-v", f"{volume}:/v:nocopy", image, "-c", command),
    ]


def mount(found: Mount) -> list[str]:
    if found.kind == "tmpfs":
        return ["--tmpfs", found.target + (f":{found.options}" if found.options else "")]
    flags = ",".join(filter(None, ("ro" if found.read_only else "", found.options)))
    return ["-v", f"{found.source}:{found.target}" + (f":{flags}" if flags else "")]


def variable(name: str, value: str) -> list[str]:
    """A proxy's password stays in the caller's environment: with the name alone Docker takes it from there."""
    return ["-e", name if scripts.has_password(name, value) else f"{name}={value}"]


def device_request(request: DeviceRequest) -> list[str]:
    if request.driver == "cdi":
        return [word for name in request.ids for word in ("--device", name)]
    return ["--gpus", "all" if request.ids == ("all",) else f'"device={",".join(request.ids)}"']


def publish(service: ServiceSpec, port: Port) -> list[str]:
    """The port on the machine is a variable of the script."""
    return ["-p", ShellText(f'"{port.address}:${scripts.variable(service, port)}:{port.target}"')]


def container(service: ServiceSpec, environment: Iterable[tuple[str, str]]) -> list[list[str]]:
    """The flags of a service's container, each with its value; the image and its command last."""
    networks = sorted(service.networks, key=lambda name: not name.endswith("_frontend"))
    single = {
        "--restart": service.restart if service.restart != "no" else "",
        "--shm-size": service.shm_size,
        "--memory": service.memory,
        "--pids-limit": service.pids,
        "--stop-signal": service.stop_signal,
        "--stop-timeout": str(service.stop_grace),
        "--workdir": service.working_dir,
    }
    command = [*service.entrypoint[1:], *service.command]
    return [
        ["--name", service.container],
        ["--hostname", service.hostname],
        ["--network", networks[0]],
        ["--network-alias", service.name],
        ["--user", service.user],
        *([["--read-only"]] if service.read_only else []),
        *(["--cap-drop", capability] for capability in service.cap_drop),
        *(["--security-opt", option] for option in service.security_opt),
        *(["--group-add", group] for group in service.group_add),
        *(["--device", path] for path in service.devices),
        *(device_request(request) for request in service.device_requests),
        *(["--ulimit", f"{name}={limit}"] for name, limit in service.ulimits.items()),
        *([flag, value if isinstance(value, str) else str(value)] for flag, value in single.items() if value),
        *(publish(service, port) for port in service.ports),
        *(mount(item) for item in service.mounts),
        *(variable(name, value) for name, value in environment),
        *([["--entrypoint", service.entrypoint[0]]] if service.entrypoint else []),
        [service.image, *command],
    ]
