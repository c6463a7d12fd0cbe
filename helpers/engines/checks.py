"""What `invoke doctor` looks at on one engine and on no other: findings, with what holds for most engines."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import site_network
from helpers.findings import Finding, Level
from helpers.services import ServiceStatus

if TYPE_CHECKING:
    from helpers.engines.base import Engine


def site_in_containers(site: site_network.SiteNetwork) -> Finding:
    """Proxies and certificates of the site, and those that containers cannot reach."""
    if site.unreachable_proxies:
        return Finding(
            Level.WARNING,
            "proxy",
            f"{site}; containers do not reach {', '.join(site.unreachable_proxies)}, on this machine's loopback",
            "let the proxy listen on an address that containers reach, and name that one",
        )
    return Finding(Level.OK, "proxy", str(site))


def closed_workspace(workspace: Path, others: bool) -> list[Finding]:
    """Whether a workspace of this machine is closed to other accounts; ``others``: there are some of other people."""
    try:
        mode = workspace.stat().st_mode & 0o777
        reached = all(parent.stat().st_mode & 0o001 for parent in workspace.resolve().parents)
    except OSError:
        return []
    if not mode & 0o007 or not reached:
        return []
    return [
        Finding(
            Level.WARNING if others else Level.OK,
            "workspace",
            f"every account of this machine can look into {workspace} (mode {mode:04o})",
            f"if that is not meant: chmod o= {shlex.quote(str(workspace))}",
        )
    ]


class Checks:
    """Of an engine; nothing is changed by any of them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def presence(self, needed: bool, instead: str) -> list[Finding]:
        """Whether the engine is on this machine at all, where it may be missing.

        ``needed``: no other engine will do. ``instead``: what to type for another one.
        """
        return []

    def client(self) -> list[Finding]:
        """What is missing of the programs that talk to the engine."""
        return []

    def programs(self) -> list[Finding]:
        """Whether what the engine installs may be run where it is."""
        return []

    def workspace(self, others: bool) -> list[Finding]:
        """Who else can look into the workspace; ``others``: the machine has accounts of other people."""
        return []

    def gpu(self) -> list[Finding]:
        """What is missing between the engine and the GPU that was chosen."""
        return []

    def uplink(self) -> Finding:
        """The way to other machines."""
        interface, mtu = self.engine.host.uplink()
        if not interface:
            return Finding(Level.OK, "network", "no default route: only this machine can reach the services")
        return Finding(Level.OK, "network", f"uplink {interface}, MTU {mtu or 'unknown'}")

    def site_network(self) -> Finding:
        """The site's proxies and certificates, as they are handed to builds and to the notebook."""
        return Finding(Level.OK, "proxy", str(site_network.of_machine(self.engine.settings, {})))

    def leftovers(self) -> list[Finding]:
        """Data of this project that nothing remembers, or what has its names and is not ours."""
        return []

    def limits(self) -> list[Finding]:
        """Limits that the engine cannot keep."""
        return []

    def ways(self, statuses: Iterable[ServiceStatus]) -> list[Finding]:
        """Whether this machine has a way to services that run elsewhere."""
        return []

    def exposure(self) -> list[Finding]:
        """Whether others on the network reach what only this machine should."""
        return []
