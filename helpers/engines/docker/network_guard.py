"""Drop rules against machines on the same network, and for containers against the cloud's metadata service."""

from __future__ import annotations

from functools import cached_property

from helpers.engines.docker import iptables
from helpers.engines.docker.deployment import DockerComponent
from helpers.project import mlflow_jobs


class NetworkGuard(DockerComponent):
    """The rules that one project needs on this machine."""

    @cached_property
    def reachable_from_network(self) -> str:
        """The engine's version where that is one that lets other hosts in, else ""."""
        version = str(self.api.version()["Version"])
        # a rootless engine's ports are a program's of this machine, its bridges are in a network namespace
        return version if iptables.let_in(version) and not self.deployment.ids.rootless else ""

    def rules(self) -> tuple[iptables.Rule, ...]:
        """The drop rules that belong to this project, for the networks that are there."""
        if self.host.remote or self.deployment.notebook_only or self.deployment.ids.rootless:
            return ()  # the tables of another machine, or of an engine's namespace, are not ours to change
        project = self.settings.project
        bridges = [iptables.Bridge(*item) for item in self.api.bridges(project)]
        # only then may somebody outside have the server or the notebook send requests
        reaching = self.deployment.is_public or mlflow_jobs.enabled(self.deployment)
        metadata = iptables.metadata_rules(project, bridges) if reaching else ()
        if not self.reachable_from_network:
            return metadata
        return (*iptables.loopback_rules(project), *iptables.address_rules(project, bridges), *metadata)

    def put(self) -> tuple[str, ...]:
        """Set the drop rules where this process may. Gives what to tell: what was set, or the lines to type."""
        rules = self.rules()
        if not rules:
            return ()
        why = (
            f"Docker {self.reachable_from_network} lets machines on the same network reach ports published on 127.0.0.1"
            if self.reachable_from_network
            else "containers can ask the cloud's metadata service for its credentials"
        )
        problem = "only root can set them"
        if iptables.may_change():
            problem, missing = iptables.put(self.settings.project, rules)
            if not problem:
                return (
                    (f"{why}: drop rules were set (a reboot removes them, `invoke up` sets them again)",)
                    if missing
                    else ()
                )
        return (
            f"warning: {why}, and the drop rules against it were not set ({problem}). Type:",
            *(f"  {line}" for line in iptables.lines(rules)),
        )

    def remove(self) -> None:
        iptables.remove(self.settings.project)
