"""Networks as Compose makes them."""

from __future__ import annotations

from collections.abc import Iterable

from helpers.engines.docker.client.connection import LABEL, Connection, errors, words
from helpers.errors import TrackbedError
from helpers.services import Network


class Networks(Connection):
    """Of this engine."""

    def network_exists(self, name: str) -> bool:
        return any(n["Name"] == name for n in self.client.api.networks(names=[name]))

    def remove_networks(self, project: str, names: Iterable[str]) -> None:
        """Remove those of the named networks that Compose made for a project."""
        known = set(names)
        for network in self.client.api.networks(filters={"label": f"com.docker.compose.project={project}"}):
            if network["Name"] not in known:
                continue  # of somebody else's files of the same name
            try:
                self.client.api.remove_network(network["Id"])
            except errors().APIError:
                continue  # somebody else is attached to it

    def bridges(self, project: str) -> list[tuple[str, tuple[str, ...]]]:
        """Interface and IPv4 subnets of each network of a Compose project."""
        result = []
        for network in self.client.api.networks(filters={"label": f"com.docker.compose.project={project}"}):
            options = network.get("Options") or {}
            interface = options.get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
            subnets = [str(c.get("Subnet", "")) for c in (network.get("IPAM") or {}).get("Config") or []]
            result.append((interface, tuple(s for s in subnets if s and ":" not in s)))
        return result

    def create_network(self, network: Network, project: str) -> None:
        """Make a network as Compose would, which takes it for its own when services are added later."""
        if self.network_exists(network.name):
            return
        labels = {
            "com.docker.compose.network": network.name.removeprefix(f"{project}_"),
            "com.docker.compose.project": project,
            f"{LABEL}.project": project,
        }
        self.client.api.create_network(
            network.name,
            driver="bridge",
            internal=network.internal,
            labels=labels,
            options={"com.docker.network.driver.mtu": str(network.mtu)},
        )

    def remove_network(self, name: str) -> None:
        try:
            self.client.api.remove_network(name)
        except errors().NotFound:
            return
        except errors().APIError as error:
            raise TrackbedError(
                f"network {name} cannot be removed: {words(error)}",
                "remove what is attached to it (`docker network inspect` names it), then try again",
            ) from None
