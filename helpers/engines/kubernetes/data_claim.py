"""The data sets' volume claim, filled by a pod that mounts nothing else and has no secret."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from helpers.engines import data_volume, notebook_spec, streaming
from helpers.engines.kubernetes import kustomization, objects
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.engines.kubernetes.objects import Object
from helpers.engines.kubernetes.pod_commands import PodCommands
from helpers.engines.kubernetes.rendering import Rendering
from helpers.engines.kubernetes.tool_pods import LONGEST
from helpers.errors import TrackbedError
from helpers.services import JUPYTER, MLFLOW, ProgressReporter

POD = "data"
ACCOUNT = 10001  # MLflow's: the claim is its group's, and the notebook's account is another
ROOM = 2 << 30  # bytes above what is needed: a claim cannot always grow


class DataClaim:
    inside, root = notebook_spec.DATA, "/data"

    def __init__(self, deployment: KubernetesDeployment, rendering: Rendering, commands: PodCommands) -> None:
        self._here, self._rendering, self._commands = deployment, rendering, commands
        self._name = data_volume.name_of(deployment.settings.data_volume)
        if self._name.startswith("/"):
            raise rendering.no_folder(self._name)
        self.words = f"the data sets' volume claim {self._name} in {deployment.where}"

    def exists(self) -> bool:
        return self._here.kubectl.find("persistentvolumeclaim", self._name) is not None

    def make(self, size: int, progress: ProgressReporter) -> None:
        if self.exists():
            return
        if self._here.kubectl.find("namespace", self._here.target.namespace) is None:
            raise TrackbedError(
                f"{self._here.where} is not there yet", "`invoke up` makes it; then run the same command"
            )
        progress.step(f"making {self.words}")
        # without the project's labels: it is no project's, and `down --delete-data` leaves it
        made: dict[str, Any] = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
        made |= kustomization.claim(self._here, self._name, str(size + ROOM))
        self._here.kubectl.apply([made], self.words)
        self._rendering.forget()  # the notebook is planned with it from now on

    def pipe(self, argv: tuple[str, ...]) -> AbstractContextManager[streaming.Pipe]:
        held = self._commands.tools.hold(POD, self._pod(), POD)
        return self._commands.pipe_in(f"pod/{held.name}", POD, argv)

    def _pod(self) -> Object:
        workload = objects.WORKLOADS[MLFLOW]
        given = objects.find(self._rendering.things, workload.kind, workload.name)
        labels = dict(given["spec"]["template"]["metadata"]["labels"]) if given else {}
        container: dict[str, Any] = {
            "name": POD,
            "image": self._rendering.images.references()[MLFLOW],
            "command": ["sleep", str(LONGEST)],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": POD, "mountPath": self.root}],
        }
        spec: dict[str, Any] = {
            "containers": [container],
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LONGEST,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],  # the notebook's node may be kept for GPUs
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": ACCOUNT,
                "runAsGroup": ACCOUNT,
                "fsGroup": ACCOUNT,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": POD, "persistentVolumeClaim": {"claimName": self._name}}],
        }
        if node := self._commands.tools.node(JUPYTER):  # where the volume is attached already
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": self._here.target.namespace,
                "labels": {**labels, objects.PART: objects.apart(POD)},
            },
            "spec": spec,
        }
