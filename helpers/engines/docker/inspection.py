"""A container as it was made, read back from the engine as the spec of its service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from helpers.engines import scripts
from helpers.engines.docker import compose_model, script
from helpers.engines.docker.client import Container
from helpers.engines.docker.deployment import DockerComponent
from helpers.services import TITLES, Details, DeviceRequest, Hide, Mount, Plan, ServiceSpec

MEBIBYTE = 1 << 20


class Inspection(DockerComponent):
    """What there is, in the words of a plan."""

    def details(self, service: str, container: Container | None, plan: Callable[[], Plan], hide: Hide) -> Details:
        """The service as its container was made, else as it would be. Raises KeyError where nobody knows it."""
        known = self.api.details(container.id) if container else {}
        if not known:
            spec = hide(plan().service(service))
            return Details(spec, planned=True, lines=self._by_hand(spec))
        image = self.api.image(str(known["Image"])) or {}
        spec = hide(read(service, known, image.get("config") or {}))
        looks = tuple(("to look at it", f"docker {verb} {spec.container}") for verb in ("inspect", "logs --follow"))
        return Details(spec, lines=(*self._by_hand(spec), *looks))

    def _by_hand(self, spec: ServiceSpec) -> tuple[tuple[str, str], ...]:
        host = self.deployment.host
        lines = [f"export DOCKER_HOST={host.url}"] if host.remote else []
        for line in script.run(spec, host):
            for port in spec.ports:  # which the script has as its variables
                line = line.replace(f"${scripts.variable(spec, port)}:", f"{port.published}:")
            lines.append(line.removesuffix(" >/dev/null"))
        return tuple(("the same by hand", line) for line in lines)


def read(service: str, known: Mapping[str, Any], image: Mapping[str, Any]) -> ServiceSpec:
    """The spec that the container was made from. ``image``: its image's configuration, which need not be repeated."""
    config, host = known["Config"], known["HostConfig"]
    inherited = set(image.get("Env") or ())
    own = [pair for pair in config.get("Env") or () if "=" in pair and pair not in inherited]
    entrypoint = tuple(config.get("Entrypoint") or ())
    own_entrypoint = () if entrypoint == tuple(image.get("Entrypoint") or ()) else entrypoint
    command = tuple(config.get("Cmd") or ())
    return ServiceSpec(
        service,
        TITLES[service],
        command=() if not own_entrypoint and command == tuple(image.get("Cmd") or ()) else command,
        entrypoint=own_entrypoint,
        image=str(config.get("Image", "")),
        environment=dict(pair.split("=", 1) for pair in sorted(own)),
        ports=compose_model.published(service, known),
        mounts=tuple(_mounts(host)),
        networks=tuple((known.get("NetworkSettings") or {}).get("Networks") or ()) or ("none",),
        container=str(known.get("Name", "")).lstrip("/"),
        hostname="" if str(known["Id"]).startswith(config.get("Hostname", "")) else str(config["Hostname"]),
        user=str(config.get("User", "")),
        group_add=tuple(host.get("GroupAdd") or ()),
        devices=tuple(str(one["PathOnHost"]) for one in host.get("Devices") or ()),
        device_requests=tuple(_device_requests(host.get("DeviceRequests") or ())),
        ulimits={str(one["Name"]): int(one["Soft"]) for one in host.get("Ulimits") or ()},
        working_dir="" if config.get("WorkingDir") == image.get("WorkingDir") else str(config.get("WorkingDir") or ""),
        read_only=bool(host.get("ReadonlyRootfs")),
        cap_drop=tuple(host.get("CapDrop") or ()),
        security_opt=tuple(host.get("SecurityOpt") or ()),
        shm_size=_size(0 if host.get("ShmSize") == 64 * MEBIBYTE else host.get("ShmSize")),  # Docker's own default
        memory=_size(host.get("Memory")),
        pids=max(0, int(host.get("PidsLimit") or 0)),
        restart=str((host.get("RestartPolicy") or {}).get("Name") or ""),
        stop_signal="" if config.get("StopSignal") == image.get("StopSignal") else str(config.get("StopSignal") or ""),
        stop_grace=int(config.get("StopTimeout") or 10),
        one_shot=service == "bucket",
    )


def _size(count: Any) -> str:
    """Bytes as Docker's flags and the settings have them; "" for no limit."""
    left, unit = int(count or 0), ""
    for larger in "kmg":
        if left and left % 1024 == 0:
            left, unit = left // 1024, larger
    return f"{left}{unit}" if left else ""


def _mounts(host: Mapping[str, Any]) -> Iterable[Mount]:
    for bind in host.get("Binds") or ():
        source, target, *rest = str(bind).split(":")
        flags = rest[0].split(",") if rest else []
        more = ",".join(flag for flag in flags if flag not in ("ro", "rw"))
        yield Mount("bind" if source.startswith("/") else "volume", source, target, "ro" in flags, more)
    for one in host.get("Mounts") or ():
        kind, more = str(one.get("Type", "")), "nocopy" if (one.get("VolumeOptions") or {}).get("NoCopy") else ""
        yield Mount(kind, str(one.get("Source", "")), str(one["Target"]), bool(one.get("ReadOnly")), more)
    for path, words in (host.get("Tmpfs") or {}).items():
        yield Mount("tmpfs", "", str(path), options=str(words))


def _device_requests(listed: Iterable[Mapping[str, Any]]) -> Iterable[DeviceRequest]:
    for one in listed:
        yield DeviceRequest(str(one.get("Driver") or ""), tuple(one.get("DeviceIDs") or ("all",)))
