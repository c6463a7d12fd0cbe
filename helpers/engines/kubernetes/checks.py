"""What `invoke doctor` looks at in a cluster."""

from __future__ import annotations

from collections.abc import Iterable

from helpers import side_by_side
from helpers.engines.base import Engine
from helpers.engines.checks import Checks, site_in_containers
from helpers.engines.kubernetes import cluster, exposure, gpus, kubectl, objects
from helpers.engines.kubernetes.database import Database
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.engines.kubernetes.forwards import Forwards
from helpers.engines.kubernetes.images import BRING, full
from helpers.engines.kubernetes.rendering import Rendering
from helpers.engines.kubernetes.rights import Right
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.services import GATEWAY, JUPYTER, POSTGRES, ServiceStatus

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
METRICS = "v1beta1.metrics.k8s.io"
# what a start needs in its namespace
RIGHTS = (
    Right("create", "statefulsets", "apps"),
    Right("create", "deployments", "apps"),
    Right("create", "jobs", "batch"),
    Right("create", "secrets"),
    Right("create", "pods", subresource="exec"),
    Right("create", "pods", subresource="portforward"),
)


class KubernetesChecks(Checks):
    """Of the cluster of the project's context."""

    def __init__(
        self,
        engine: Engine,
        deployment: KubernetesDeployment,
        rendering: Rendering,
        forwards: Forwards,
        database: Database,
    ) -> None:
        super().__init__(engine)
        self.forwards, self.database = forwards, database
        self.deployment, self.rendering, self.cluster = deployment, rendering, rendering.cluster

    def presence(self, needed: bool, instead: str) -> list[Finding]:
        if not needed:
            return []
        if kubectl.missing():
            error = kubectl.no_kubectl()
            return [Finding(Level.ERROR, "kubectl", error.message, error.hint)]
        return []

    def client(self) -> list[Finding]:
        """Which cluster it is, what the user may do there, how volumes are made, whether it counts."""
        return [*side_by_side.each((self._nodes, self._rights, self._storage, self._metrics)), *self._images()]

    def _nodes(self) -> Finding:
        context = self.deployment.target.context
        nodes = self.cluster.nodes
        ready = sum(node.ready for node in nodes)
        many = f"{ready} of {len(nodes)} nodes take pods" if nodes else "its nodes may not be seen with this login"
        level = Level.WARNING if nodes and not ready else Level.OK
        fix = f"`kubectl get nodes --context {context}` shows why" if level is Level.WARNING else ""
        return Finding(
            level, "cluster", f"context {context}, namespace {self.deployment.target.namespace}: {many}", fix
        )

    def _rights(self) -> Finding:
        target = self.deployment.target
        try:
            lacking = self.deployment.kubectl.lacking(RIGHTS)
        except TrackbedError as error:
            return Finding(Level.WARNING, "rights", error.message, error.hint)
        if not lacking:
            return Finding(Level.OK, "rights", f"enough in namespace {target.namespace}")
        return Finding(
            Level.ERROR,
            "rights",
            f"this login may not {', '.join(map(str, lacking))} in namespace {target.namespace}",
            f"{lacking[0].shown(target.namespace, target.context)}; who runs the cluster can give it",
        )

    def _storage(self) -> Finding:
        chosen, listed = self.deployment.settings.storage_class, self.cluster.storage_classes()
        context = self.deployment.target.context
        if listed is None:
            return Finding(
                Level.OK, "storage", f"class {chosen or 'default'}; the classes may not be seen with this login"
            )
        names = [objects.name(one) for one in listed]
        default = next((objects.name(one) for one in listed if objects.notes(one).get(DEFAULT_CLASS) == "true"), "")
        show = f"`kubectl get storageclass --context {context}`"
        if chosen and chosen not in names:
            return Finding(
                Level.ERROR, "storage", f"there is no storage class {chosen} (STORAGE_CLASS)", f"{show} lists them"
            )
        if not chosen and not default:
            return Finding(
                Level.ERROR,
                "storage",
                f"no storage class is the default; there {'are ' + ', '.join(names) if names else 'is none'}",
                f"name one with STORAGE_CLASS; {show} lists them"
                if names
                else "install one, as your cluster's documentation says",
            )
        return Finding(Level.OK, "storage", f"volumes of class {chosen or default}")

    def _metrics(self) -> Finding:
        try:
            registered = self.deployment.kubectl.find("apiservice", METRICS)
        except TrackbedError:
            registered = None
        if registered:
            return Finding(Level.OK, "metrics", "the metrics server is there")
        return Finding(Level.OK, "metrics", "no metrics server: nothing scales by load")

    def _images(self) -> list[Finding]:
        """Those of ours that no node has, which some registry has to have then."""
        present = self.cluster.images
        if not present:
            return []
        missing = [
            reference
            for reference in self.rendering.images.references().values()
            if not {reference, full(reference)} & present
            and not self.deployment.settings.image_registry
            and reference.startswith("trackbed/")
        ]
        if not missing:
            return [Finding(Level.OK, "images", "the nodes have them, or a registry does")]
        return [
            Finding(
                Level.WARNING,
                "images",
                f"no node tells of {', '.join(missing)}, which no public registry has",
                BRING,
            )
        ]

    def gpu(self) -> list[Finding]:
        """Whether the cluster has what the notebook asks for, and who holds it."""
        chosen = self.rendering.gpus
        if not chosen.resource or not self.cluster.nodes:
            return []
        total = self.cluster.total(chosen.resource)
        if not total:
            return [
                Finding(
                    Level.ERROR,
                    "gpu",
                    f"no node has any {chosen.resource}: its device plugin is not there, or finds no GPU",
                    f"{gpus.PLUGINS[chosen.accelerator.kind]}; --gpu=none goes on without",
                )
            ]
        pods = self.cluster.pods()
        holders = cluster.holders(pods or (), chosen.resource)
        mine = holders.get(f"project {objects.label(self.deployment.settings.project)}", 0)
        free = total - int(sum(holders.values()) - mine)
        text = f"{chosen} of {total} in the cluster{cluster.held_by(holders)}"
        if free < chosen.count:
            return [
                Finding(Level.WARNING, "gpu", f"{text}: not enough are free", "wait, or ask for fewer: --gpu-count=1")
            ]
        return [Finding(Level.OK, "gpu", text)]

    def exposure(self) -> list[Finding]:
        """The gateway's way out of the cluster."""
        if not self.deployment.is_public:
            return []
        service = self.deployment.kubectl.find("service", GATEWAY)
        return [exposure.finding(self.deployment.settings, service, self.deployment.where)]

    def site_network(self) -> Finding:
        """Proxies and certificates of the site, and those that pods cannot reach."""
        return site_in_containers(self.deployment.site_network)

    def ways(self, statuses: Iterable[ServiceStatus]) -> list[Finding]:
        """Whether the ports of this machine lead to the services, and a database server of the user's to MLflow."""
        up = {status.name for status in statuses if status.up}
        result = self.database.findings() if POSTGRES in up else []
        if JUPYTER in up:
            lacking = [name for name in self.forwards.names() if name not in self.forwards.running()]
            why = next((f" ({said})" for name in lacking if (said := self.forwards.problem(name))), "")
            if lacking:
                words = f"this machine has no way to {', '.join(lacking)}{why}"
                result.append(Finding(Level.WARNING, "ways", words, "`invoke up` opens it again"))
        return result
