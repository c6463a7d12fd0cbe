"""The cluster in the place of the machine that runs the services; their ports are on this machine."""

from __future__ import annotations

import platform
from functools import partial

from helpers import side_by_side
from helpers.engines.host import HostFacts, LocalHost
from helpers.engines.kubernetes.cluster import Cluster
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.engines.kubernetes.pod_commands import PodCommands
from helpers.services import POSTGRES, STORE_SYNC

DOWN_SECONDS = 1  # after which a service without a pod is down
VOLUMES = {POSTGRES: "/var/lib/postgresql", STORE_SYNC: "/store"}  # the stores' own images have no df


class ClusterHost(LocalHost):
    """Ports are forwarded to this machine, so that they are this machine's; its folders are not the nodes'."""

    def is_folder(self, path: str) -> bool:
        return False


def facts(cluster: Cluster, commands: PodCommands, deployment: KubernetesDeployment) -> HostFacts:
    """All nodes together as far as they may be seen, and the fullest volume of what runs; 0 of what is not known."""
    without = {POSTGRES} if deployment.external_database else set()  # its pod has no data
    names = [name for name in VOLUMES if name in deployment.services and name not in without]
    seen, volumes = side_by_side.ask(
        lambda: cluster.nodes, lambda: side_by_side.each(partial(_free, commands, name) for name in names)
    )
    nodes = [node for node in seen if node.ready]
    memory = int(sum(node.allocatable.get("memory", 0) for node in nodes))
    free, where = min((found for found in volumes if found[0]), default=(0, "the volumes"))
    return HostFacts(
        hostname=deployment.target.context,
        architecture=platform.machine(),
        cpus=int(sum(node.allocatable.get("cpu", 0) for node in nodes)),
        memory=memory,
        memory_available=memory,
        disk_free=free,
        disk_path=where,
        remote=True,
    )


def _free(commands: PodCommands, service: str) -> tuple[int, str]:
    done = commands.run(service, ("df", "-Pk", VOLUMES[service]), None, 20, patience=DOWN_SECONDS)
    words = done.stdout.splitlines()[-1].split() if done.code == 0 and done.stdout else []
    free = int(words[-3]) * 1024 if len(words) >= 6 and words[-3].isdigit() else 0
    return free, f"the volume of {service}"
