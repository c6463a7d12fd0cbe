"""The data of a project in the cluster: its claims of volumes."""

from __future__ import annotations

from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.deployment import KubernetesComponent
from helpers.services import DataItem, ProgressReporter

WHAT = {
    "data-postgres-0": "database: experiments, runs, parameters, metrics, registered models",
    "data-store-0": "artifacts",
    "work-jupyter-0": "the notebook's workspace",
}
OURS = "--selector=app.kubernetes.io/name=trackbed"
SECONDS = 120.0


class Claims(KubernetesComponent):
    def data(self) -> tuple[DataItem, ...]:
        listed = self.kubectl.listed("persistentvolumeclaims", OURS)
        return tuple(
            DataItem(
                f"volume claim {objects.name(one)}",
                WHAT.get(objects.name(one), "data"),
                int(objects.number(str(one["spec"]["resources"]["requests"]["storage"]))),
            )
            for one in listed
        )

    def remove(self, progress: ProgressReporter) -> None:
        names = [objects.name(one) for one in self.kubectl.listed("persistentvolumeclaims", OURS)]
        for name in names:
            progress.step(f"removing volume claim {name}")
        self.kubectl.delete("persistentvolumeclaims", names, wait=SECONDS)
        secrets = [objects.name(one) for one in self.kubectl.listed("secrets", OURS)]
        self.kubectl.delete("secrets", secrets)
