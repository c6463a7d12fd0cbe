"""The data of a project in the cluster: its claims of volumes."""

from __future__ import annotations

from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.deployment import KubernetesComponent
from helpers.engines.kubernetes.kubectl import Object
from helpers.services import DataItem, ProgressReporter

WORKSPACE = "work-jupyter-0"
WHAT = {
    "data-postgres-0": "database: experiments, runs, parameters, metrics, registered models",
    "data-store-0": "artifacts",
    "gateway-gateway-0": "certificates of the gateway, and its own CA",
    WORKSPACE: "the files in the notebook's workspace",
}
SECONDS = 120.0


class Claims(KubernetesComponent):
    def _listed(self) -> list[Object]:
        """Those that this project's services made: others may have theirs in the same namespace."""
        return self.kubectl.listed("persistentvolumeclaims", self.deployment.selector)

    def data(self) -> tuple[DataItem, ...]:
        return tuple(
            DataItem(
                f"volume claim {objects.name(one)}",
                WHAT.get(objects.name(one), "data"),
                int(objects.number(str(one["spec"]["resources"]["requests"]["storage"]))),
                is_workspace=objects.name(one) == WORKSPACE,
            )
            for one in self._listed()
        )

    def remove(self, progress: ProgressReporter, keep_workspace: bool) -> str:
        """Gives the claim that was kept, "" where none was."""
        names = [objects.name(one) for one in self._listed()]
        kept = WORKSPACE if keep_workspace and WORKSPACE in names else ""
        gone = [name for name in names if name != kept]
        for name in gone:
            progress.step(f"removing volume claim {name}")
        self.kubectl.delete("persistentvolumeclaims", gone, wait=SECONDS)
        secrets = [objects.name(one) for one in self.kubectl.listed("secrets", self.deployment.selector)]
        self.kubectl.delete("secrets", secrets)
        return kept
