"""Who reaches the services from outside their namespace: others on the network by the gateway's Service, as
GATEWAY_SERVICE says, and the notebooks of NOTEBOOK_NAMESPACES. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helpers import urls
from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.objects import Object
from helpers.errors import SettingError
from helpers.findings import Finding, Level
from helpers.project.deployment import Deployment
from helpers.services import GATEWAY, JUPYTER, MLFLOW
from helpers.settings import Settings

NODE_PORT = "nodeport"
LOWEST, HIGHEST = 30000, 32767  # the node ports of a cluster whose administrator chose no others


def ports(deployment: Deployment) -> Mapping[str, int]:
    """The ports at which others reach the gateway, by their names in its pod."""
    settings = deployment.settings
    return {
        "mlflow": settings.mlflow_port,
        "jupyter": settings.jupyter_port,
        **({"s3": settings.s3_port} if deployment.s3_is_public else {}),
        **({"console": settings.s3_console_port} if deployment.console_is_public else {}),
    }


def check(deployment: Deployment) -> None:
    """Refuse what a Service of that type cannot be. Raises SettingError."""
    settings = deployment.settings
    if settings.gateway_service != NODE_PORT:
        return
    if settings.acme:
        raise SettingError(
            "A CA asks for its challenges at ports 80 and 443, which are no node ports (GATEWAY_SERVICE=nodeport).",
            "`invoke up --public --certificates=internal`, or --gateway-service=loadbalancer",
        )
    for name, port in ports(deployment).items():
        if not LOWEST <= port <= HIGHEST:
            setting = {"s3": "S3_PORT", "console": "S3_CONSOLE_PORT"}.get(name, f"{name.upper()}_PORT")
            raise SettingError(
                f"{setting}={port} (from {settings.origin(setting)}) is no node port: with GATEWAY_SERVICE=nodeport it "
                f"has to be one from {LOWEST} to {HIGHEST}.",
                "`invoke up --public --gateway-service=nodeport --mlflow-port=30800 --jupyter-port=30888`",
            )


def patches(deployment: Deployment) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """JSON patches of what lets others in, by kind and name of the object. Raises SettingError."""
    result = {}
    if deployment.is_public:
        check(deployment)
        result["Service", GATEWAY] = service_patch(deployment)
    if (names := deployment.settings.notebook_namespaces) and not deployment.notebook_only:
        rule = {"op": "add", "path": "/spec/ingress/-", "value": _notebooks_of(names.split(","))}
        result["NetworkPolicy", MLFLOW] = [rule]
    return result


def _notebooks_of(namespaces: list[str]) -> dict[str, Any]:
    """The rule for the notebooks of other projects. Their namespace's label is the API server's own."""
    where = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": namespaces}]}
    who = {"matchLabels": {"app.kubernetes.io/name": "trackbed", objects.PART: JUPYTER}}
    return {"from": [{"namespaceSelector": where, "podSelector": who}], "ports": [{"port": 8000}]}


def service_patch(deployment: Deployment) -> list[dict[str, Any]]:
    """The Service's type and ports."""
    on_nodes = deployment.settings.gateway_service == NODE_PORT
    listed = dict(ports(deployment))
    if deployment.settings.acme:
        listed |= {"acme-http": deployment.settings.http_port, "acme-https": deployment.settings.https_port}
    spec = {
        "type": "NodePort" if on_nodes else "LoadBalancer",
        # every node answers, whichever has the pod; a load balancer asks the right one, and its log names who came
        "externalTrafficPolicy": "Cluster" if on_nodes else "Local",
        "ports": [
            {"name": name, "port": port, "targetPort": name, **({"nodePort": port} if on_nodes else {})}
            for name, port in listed.items()
        ],
    }
    return [{"op": "replace", "path": f"/spec/{key}", "value": value} for key, value in spec.items()]


def remark(settings: Settings) -> str:
    """What the user has to know of the way in, before a start."""
    name = urls.public_name(settings)
    if settings.gateway_service == NODE_PORT:
        return (
            f"public: at ports {settings.mlflow_port} and {settings.jupyter_port} of every node; {name} has to be one"
        )
    return (
        f"public: through a load balancer of the cluster; {name} has to lead to it (`invoke doctor` tells its address)"
    )


def finding(settings: Settings, service: Object | None, where: str) -> Finding:
    """Whether the gateway can be reached from outside, as its Service tells. ``where``: the namespace, in words."""
    if service is None:
        return Finding(Level.OK, "exposure", "the gateway is not up")
    name = urls.public_name(settings)
    if settings.gateway_service == NODE_PORT:
        return Finding(Level.OK, "exposure", f"the gateway is at every node's port {settings.mlflow_port}, as {name}")
    given = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    addresses = ", ".join(str(one.get("ip") or one.get("hostname", "")) for one in given)
    if addresses:
        return Finding(Level.OK, "exposure", f"the gateway's load balancer is {addresses}; {name} has to lead there")
    return Finding(
        Level.WARNING,
        "exposure",
        f"the cluster has given the gateway in {where} no load balancer yet: nobody outside reaches it",
        "a cluster without load balancers: --gateway-service=nodeport",
    )
