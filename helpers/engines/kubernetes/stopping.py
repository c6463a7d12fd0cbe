"""Stopping the services: the workloads go, the notebook first; claims, secrets and the namespace stay."""

from __future__ import annotations

from helpers import waiting
from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.inspection import Inspection, pods_of
from helpers.engines.kubernetes.kubectl import Object
from helpers.errors import TrackbedError
from helpers.services import GATEWAY, JUPYTER, MLFLOW, POSTGRES, STORE, ProgressReporter

ORDER = ((JUPYTER,), (GATEWAY,), (MLFLOW,), (STORE, POSTGRES))  # a server ends before what it writes to
BESIDE = 60.0  # seconds for a pod to go, beside the time that it is given for its requests
APPLIED = "cronjobs,jobs,services,networkpolicies,poddisruptionbudgets,configmaps"


class Stopping(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, inspection: Inspection) -> None:
        super().__init__(deployment)
        self.inspection = inspection

    def stop(self, progress: ProgressReporter, drain: int) -> None:
        for step in ORDER:
            things = self.inspection.things()
            for service in step:
                workload = objects.WORKLOADS[service]
                if objects.find(things, workload.kind, workload.name):
                    progress.service(service, "stopping")
                    self.kubectl.delete(workload.kind.lower(), [workload.name])
            for service in step:
                self._await_end(service, drain, progress)
        commands = ",".join(map(objects.apart, objects.WORKLOADS))  # of callers that were killed
        runs = f"{self.deployment.selector},{objects.PART} in ({commands})"
        self.kubectl.ask("delete the pods of single commands", "delete", "pods", runs, "--wait=false")
        read = ("delete", APPLIED, self.deployment.selector, "--wait=false")
        self.kubectl.ask("delete what the services read", *read)

    def halt(self, service: str, progress: ProgressReporter) -> None:
        """Scale it to none; its objects stay."""
        workload = objects.WORKLOADS[service]
        if objects.find(self.inspection.things(), workload.kind, workload.name):
            self.scale(service, 0)
            self._await_end(service, 40, progress)

    def scale(self, service: str, replicas: int) -> None:
        reference = objects.WORKLOADS[service].reference
        self.kubectl.ask(f"scale {service}", "scale", reference, f"--replicas={replicas}")

    def _await_end(self, service: str, drain: int, progress: ProgressReporter) -> None:
        def left() -> list[Object]:
            return pods_of(service, self.inspection.things())

        if not waiting.until(lambda: not left(), drain + BESIDE, 0.5):
            names = [objects.name(pod) for pod in left()]
            raise TrackbedError(
                f"{service} does not end in {self.deployment.where}: {', '.join(names)}",
                f"its node may not answer: `kubectl get nodes --context {self.deployment.target.context}`; then "
                "`invoke down` again",
            )
        progress.service(service, "stopped")
