"""A service's spec as Docker creates it: each property once, as flags of `docker create` and as the API's arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.engines import scripts
from helpers.services import DeviceRequest, Health, Mount, Port, ServiceSpec
from helpers.shell_words import ShellText

SECOND = 1_000_000_000  # the API counts in nanoseconds
LOG = {"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}}


@dataclass(frozen=True)
class Option:
    """One property of a container: ``flags``, each with its value, say what ``config`` and ``host`` do.

    ``config`` are arguments of the SDK for the container, ``host`` those for its HostConfig.
    """

    flags: Sequence[Sequence[str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)


def first_network(spec: ServiceSpec) -> str:
    """The one that it is created on: Docker publishes ports on that."""
    return sorted(spec.networks, key=lambda name: not name.endswith("_frontend"))[0]


def options(spec: ServiceSpec) -> list[Option]:
    """What the container is created with, but for its name, its image and what only one of both has."""
    network, restart = first_network(spec), "" if spec.restart == "no" else spec.restart
    return [
        Option(_flag("--hostname", spec.hostname), {"hostname": spec.hostname}),
        Option([["--network", network]], host={"network_mode": network}),
        Option([["--user", spec.user]], {"user": spec.user}),
        Option([["--read-only"]] if spec.read_only else [], host={"read_only": spec.read_only}),
        _each("--cap-drop", "cap_drop", spec.cap_drop),
        _each("--security-opt", "security_opt", spec.security_opt),
        _each("--group-add", "group_add", spec.group_add),
        Option(_flags("--device", spec.devices), host={"devices": [f"{path}:{path}:rwm" for path in spec.devices]}),
        _device_requests(spec.device_requests),
        Option(
            _flags("--ulimit", (f"{name}={limit}" for name, limit in spec.ulimits.items())),
            host={"ulimits": [{"name": name, "soft": limit, "hard": limit} for name, limit in spec.ulimits.items()]},
        ),
        Option(_flag("--restart", restart), host={"restart_policy": {"Name": restart or "no"}}),
        Option(_flag("--shm-size", spec.shm_size), host={"shm_size": spec.shm_size or None}),
        Option(_flag("--memory", spec.memory), host={"mem_limit": spec.memory or None}),
        Option(_flag("--pids-limit", spec.pids), host={"pids_limit": spec.pids or None}),
        Option(_flag("--stop-signal", spec.stop_signal), {"stop_signal": spec.stop_signal or None}),
        Option([["--stop-timeout", str(spec.stop_grace)]], {"stop_timeout": spec.stop_grace}),
        Option(_flag("--workdir", spec.working_dir), {"working_dir": spec.working_dir or None}),
        Option(
            [publish(spec, port) for port in spec.ports],
            {"ports": [port.target for port in spec.ports]},
            {"port_bindings": {port.target: (port.address, port.published) for port in spec.ports}},
        ),
        Option(
            [mount_words(mount) for mount in spec.mounts],
            host={
                "binds": [_bind(mount) for mount in spec.mounts if mount.kind != "tmpfs"],
                "tmpfs": {mount.target: mount.options for mount in spec.mounts if mount.kind == "tmpfs"},
            },
        ),
        Option(
            [variable(name, value) for name, value in spec.environment.items()],
            {"environment": dict(spec.environment)},
        ),
        Option(_flags("--entrypoint", spec.entrypoint[:1]), {"entrypoint": list(spec.entrypoint[:1]) or None}),
    ]


def argv(spec: ServiceSpec) -> list[list[str]]:
    """The flags of `docker create`, each with its value; the image and its command last."""
    return [
        ["--name", spec.container],
        ["--network-alias", spec.name],
        *(list(flag) for option in options(spec) for flag in option.flags),
        [spec.image, *_command(spec)],
    ]


def config_and_host(spec: ServiceSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same as the SDK's arguments, with what a script leaves to the shell: health check and limits of the log."""
    config: dict[str, Any] = {"image": spec.image, "command": _command(spec)}
    host: dict[str, Any] = {"log_config": LOG}
    for option in options(spec):
        config.update(option.config)
        host.update(option.host)
    if spec.health:
        config["healthcheck"] = _healthcheck(spec.health)
        config["start_interval"] = int(spec.health.start_interval * SECOND)
    return config, host


def _command(spec: ServiceSpec) -> list[str]:
    return [*spec.entrypoint[1:], *spec.command]  # `--entrypoint` takes one word


def _healthcheck(health: Health) -> dict[str, Any]:
    return {
        "test": ["CMD", *health.argv],
        "interval": int(health.interval * SECOND),
        "timeout": int(health.timeout * SECOND),
        "retries": health.retries,
        "start_period": int(health.start_period * SECOND),
    }


def _flag(name: str, value: str | int) -> list[list[str]]:
    """Nothing where there is no value. Placeholders stay what a shell expands."""
    return [[name, value if isinstance(value, str) else str(value)]] if value else []


def _flags(name: str, values: Iterable[str]) -> list[list[str]]:
    return [[name, value] for value in values]


def _each(flag: str, argument: str, values: Sequence[str]) -> Option:
    return Option(_flags(flag, values), host={argument: list(values)})


def _bind(mount: Mount) -> str:
    flags = ",".join(filter(None, ("ro" if mount.read_only else "", mount.options)))
    return f"{mount.source}:{mount.target}" + (f":{flags}" if flags else "")


def mount_words(mount: Mount) -> list[str]:
    if mount.kind == "tmpfs":
        return ["--tmpfs", mount.target + (f":{mount.options}" if mount.options else "")]
    return ["-v", _bind(mount)]


def variable(name: str, value: str) -> list[str]:
    """A proxy's password stays in the caller's environment: with the name alone Docker takes it from there."""
    return ["-e", name if scripts.has_password(name, value) else f"{name}={value}"]


def passwords(spec: ServiceSpec) -> dict[str, str]:
    """The variables of which ``variable`` gives only the name."""
    return {name: value for name, value in spec.environment.items() if scripts.has_password(name, value)}


def publish(spec: ServiceSpec, port: Port) -> list[str]:
    """The port on the machine is a variable of the script."""
    return ["-p", ShellText(f'"{port.address}:${scripts.variable(spec, port)}:{port.target}"')]


def _device_requests(requests: Sequence[DeviceRequest]) -> Option:
    flags: list[list[str]] = []
    arguments: list[dict[str, Any]] = []
    for request in requests:
        if request.driver == "cdi":
            flags += _flags("--device", request.ids)
            arguments.append({"driver": "cdi", "device_ids": list(request.ids)})
        elif request.ids == ("all",):
            flags.append(["--gpus", "all"])
            arguments.append({"capabilities": [["gpu"]], "count": -1})
        else:
            flags.append(["--gpus", f'"device={",".join(request.ids)}"'])
            arguments.append({"capabilities": [["gpu"]], "device_ids": list(request.ids)})
    return Option(flags, host={"device_requests": arguments})
