"""The rendered objects as the plan of a project: what status, check and a dry run read. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from helpers import services
from helpers.engines.kubernetes import exposure, objects
from helpers.engines.kubernetes.objects import Object
from helpers.project.deployment import Deployment
from helpers.services import BUCKET, GATEWAY, JUPYTER, MLFLOW, SCHEMA, STORE, Health, Mount, Port, ServiceSpec

# the ports of the services' pods, by the names that Services have for them as well
TARGETS: Mapping[str, Mapping[str, int]] = {
    MLFLOW: {"http": 8000},
    JUPYTER: {"http": 8888},
    STORE: {"s3": 9000, "console": 9001},
    GATEWAY: {"mlflow": 8000, "jupyter": 8888, "s3": 9000, "console": 9001},
}


def service_spec(name: str, things: Iterable[Object], deployment: Deployment) -> ServiceSpec:
    """A service as data. Raises KeyError where no object runs it."""
    listed = tuple(things)
    workload = objects.WORKLOADS[name]
    thing = objects.find(listed, workload.kind, workload.name)
    if thing is None:
        raise KeyError(name)
    pod = thing["spec"]["template"]["spec"]
    container = objects.container(pod, workload.container) or {}
    security = pod.get("securityContext") or {}
    own = container.get("securityContext") or {}
    return ServiceSpec(
        name=name,
        title=services.TITLES[name],
        image=container.get("image", ""),
        entrypoint=tuple(container.get("command") or ()),
        command=tuple(container.get("args") or ()),
        environment=environment(container, listed),
        ports=ports(name, deployment),
        mounts=tuple(mounts(pod, container)),
        user=f"{security.get('runAsUser', '')}:{security.get('runAsGroup', '')}",
        working_dir=container.get("workingDir", ""),
        read_only=bool(own.get("readOnlyRootFilesystem")),
        cap_drop=tuple((own.get("capabilities") or {}).get("drop") or ()),
        health=health(container),
        memory=str(((container.get("resources") or {}).get("limits") or {}).get("memory", "")),
        stop_grace=int(pod.get("terminationGracePeriodSeconds", 30)),
        one_shot=name in (SCHEMA, BUCKET),
    )


def ports(service: str, deployment: Deployment) -> tuple[Port, ...]:
    """The ports of a service that this machine forwards: behind a gateway only the gateway's."""
    settings = deployment.settings
    listed: dict[str, tuple[tuple[str, int], ...]]
    if deployment.is_public:
        listed = {GATEWAY: tuple(exposure.ports(deployment).items())}
    else:
        listed = {
            MLFLOW: (("http", settings.mlflow_port),),
            JUPYTER: (("http", settings.jupyter_port),),
            STORE: (("s3", settings.s3_port), ("console", settings.s3_console_port)),
        }
    return tuple(
        Port(name, target(service, name), published, settings.bind_address)
        for name, published in listed.get(service, ())
    )


def target(service: str, port: str) -> int:
    """The port of that name in a service's pods; 0 where it has none."""
    return TARGETS.get(service, {}).get(port, 0)


def environment(container: Object, things: Iterable[Object]) -> dict[str, str]:
    """The variables of a container, those of its ConfigMaps among them. What only the cluster knows is left out."""
    maps = {objects.name(one): one.get("data") or {} for one in things if objects.kind(one) == "ConfigMap"}
    result: dict[str, str] = {}
    for source in container.get("envFrom") or ():
        result |= maps.get((source.get("configMapRef") or {}).get("name", ""), {})
    result |= {one["name"]: str(one["value"]) for one in container.get("env") or () if "value" in one}
    return result


def mounts(pod: Object, container: Object) -> Iterable[Mount]:
    volumes = {one["name"]: one for one in pod.get("volumes") or ()}
    for one in container.get("volumeMounts") or ():
        kind, source = _source(volumes.get(one["name"], {}), one["name"])
        yield Mount(kind, source, one["mountPath"], bool(one.get("readOnly")))


def _source(volume: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A volume of a pod; one that the pod does not have is a claim's."""
    if "emptyDir" in volume:
        return "tmpfs", ""
    if "secret" in volume:
        return "volume", str(volume["secret"]["secretName"])
    if "persistentVolumeClaim" in volume:
        return "volume", str(volume["persistentVolumeClaim"]["claimName"])
    return "volume", name


def health(container: Object) -> Health | None:
    """The readiness probe, where it is a command."""
    probe = container.get("readinessProbe") or {}
    if "exec" not in probe:
        return None
    return Health(
        tuple(probe["exec"]["command"]),
        interval=float(probe.get("periodSeconds", 10)),
        timeout=float(probe.get("timeoutSeconds", 1)),
        retries=int(probe.get("failureThreshold", 3)),
    )
