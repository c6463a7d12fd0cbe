"""The cluster in the place of the machine that runs the services; their ports are on this machine."""

from __future__ import annotations

import platform

from helpers.engines.host import HostFacts, LocalHost
from helpers.engines.kubernetes.cluster import Cluster
from helpers.engines.kubernetes.pod_commands import PodCommands
from helpers.services import POSTGRES, STORE_SYNC

VOLUMES = {POSTGRES: "/var/lib/postgresql", STORE_SYNC: "/store"}  # the stores' own images have no df


class ClusterHost(LocalHost):
    """Ports are forwarded to this machine, so that they are this machine's; its folders are not the nodes'."""

    def is_folder(self, path: str) -> bool:
        return False


def facts(cluster: Cluster, commands: PodCommands, running: frozenset[str], context: str) -> HostFacts:
    """All nodes together as far as they may be seen, and the fullest volume of ``running``; 0 of what is not known."""
    nodes = [node for node in cluster.nodes if node.ready]
    memory = int(sum(node.allocatable.get("memory", 0) for node in nodes))
    known = [found for name in VOLUMES if name in running and (found := _free(commands, name))[0]]
    free, where = min(known, default=(0, "the volumes"))
    return HostFacts(
        hostname=context,
        system=f"Kubernetes, {len(nodes)} nodes",
        architecture=platform.machine(),
        cpus=int(sum(node.allocatable.get("cpu", 0) for node in nodes)),
        memory=memory,
        memory_available=memory,
        disk_free=free,
        disk_path=where,
        remote=True,
    )


def _free(commands: PodCommands, service: str) -> tuple[int, str]:
    done = commands.run(service, ("df", "-Pk", VOLUMES[service]), None, 20)
    words = done.stdout.splitlines()[-1].split() if done.code == 0 and done.stdout else []
    free = int(words[-3]) * 1024 if len(words) >= 6 and words[-3].isdigit() else 0
    return free, f"the volume of {service}"
