"""The objects of a project as YAML and as data: kustomize's work on docker/kubernetes, in a folder that goes again."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import clone, digests, site_network
from helpers.engines import jupyterlab, notebook_spec
from helpers.engines.kubernetes import backup_plan, gpus, kubectl, kustomization, objects
from helpers.engines.kubernetes.cluster import Cluster
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.images import Images
from helpers.engines.kubernetes.kubectl import Object
from helpers.errors import TrackbedError
from helpers.gpu import node_types
from helpers.services import JUPYTER, Mount, ServiceSpec
from helpers.settings import DEFAULT

SOURCE = clone.ROOT / "docker" / "kubernetes"


class Rendering(KubernetesComponent):
    """What would be applied now. Read once, until `forget`."""

    def __init__(self, deployment: KubernetesDeployment, cluster: Cluster) -> None:
        super().__init__(deployment)
        self.cluster = cluster

    @cached_property
    def gpus(self) -> gpus.Gpus:
        asked = self.settings.gpu.kind == node_types.AUTO and not self.project.dry_run
        workload = objects.WORKLOADS[JUPYTER]
        kept = gpus.given(self.kubectl.find(workload.kind, workload.name)) if asked else ""
        return gpus.choose(self.settings, self.cluster, kept)

    @cached_property
    def images(self) -> Images:
        return Images(self.deployment, self.cluster, self.gpus.accelerator)

    @cached_property
    def notebook(self) -> ServiceSpec:
        """JupyterLab as a container: its arguments and its variables."""
        mount = Mount("volume", self.data_claim, notebook_spec.DATA, read_only=True) if self.data_claim else None
        site = self.deployment.proxies
        if self.deployment.certificates:
            site = site | site_network.trust(f"/run/secrets/{jupyterlab.CERTIFICATES}")
        return notebook_spec.container_spec(
            self.deployment, self.gpus.accelerator, self.images.references()["jupyter"], mount, site
        )

    @cached_property
    def data_claim(self) -> str:
        """The claim with the data set; "" where the default's is not there. Raises TrackbedError for a named one."""
        name = self.settings.data_volume
        named = self.settings.origin("DATA_VOLUME") != DEFAULT
        if name.startswith("/"):
            raise self.no_folder(name)
        if not name or (not named and self.project.dry_run):
            return ""
        if self.kubectl.find("persistentvolumeclaim", name):
            return name
        if named:
            raise TrackbedError(
                f"DATA_VOLUME={name}: there is no PersistentVolumeClaim of that name in {self.deployment.where}",
                f"`invoke data.add food11 --from=SOURCE --data-volume={name}` makes and fills it, or unset DATA_VOLUME",
            )
        return ""

    def no_folder(self, name: str) -> TrackbedError:
        """The error for data sets in a folder."""
        return TrackbedError(
            f"DATA_VOLUME={name} is a folder of this machine, which the cluster's nodes do not see",
            f"`invoke data.add food11 --from={name} --data-volume=food11` copies it to a volume claim in "
            f"{self.deployment.where}",
        )

    def forget(self) -> None:
        """What it was read from has changed; what was found of the cluster is kept."""
        for name in ("notebook", "data_claim", "text", "things", "images"):
            self.__dict__.pop(name, None)

    @cached_property
    def text(self) -> str:
        """The YAML of every object but the Secrets."""
        content = kustomization.kustomization(self.deployment, self.images, self.notebook, self.gpus, self.data_claim)
        for component in content["components"]:
            if not (SOURCE / component).is_dir():
                raise TrackbedError(f"{SOURCE / component} is missing", "`git status` shows what was changed")
        with tempfile.TemporaryDirectory(prefix="trackbed-") as folder:
            root = Path(folder, "kubernetes")
            shutil.copytree(SOURCE, root)  # kustomize reads nothing outside its root
            (root / "kustomization.yaml").write_text(json.dumps(content, indent=1))
            if self.deployment.scheduled:
                (root / kustomization.CODE).write_bytes(backup_plan.code())
            return kubectl.kustomize(str(root))

    @cached_property
    def things(self) -> tuple[Object, ...]:
        """The same as data; the namespace is not among them."""
        return tuple(one for one in _parsed(self.text) if objects.kind(one) != "Namespace")

    @property
    def namespace(self) -> Object:
        """The namespace as docker/kubernetes has it, under the project's name for it."""
        (given,) = _parsed((SOURCE / "base" / "namespace.yaml").read_text())
        labels = dict(objects.labels(given))
        return {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.deployment.target.namespace, "labels": labels},
        }

    def digest(self) -> str:
        """A hash of all that is applied, the secrets among it."""
        given = backup_plan.plan(self.deployment, self.images.references()) if self.deployment.scheduled else ""
        return digests.digest(self.text, self.deployment.secrets_digest(), given)

    def select(self, *names: str) -> list[Object]:
        """The workloads of these services, each marked with the hash of what it is."""
        chosen = {(objects.WORKLOADS[name].kind, objects.WORKLOADS[name].name) for name in names}
        return [_marked(one) for one in self.things if (objects.kind(one), objects.name(one)) in chosen]

    def is_current(self, name: str, thing: Object | None) -> bool:
        """Whether a workload of the cluster was made from what is planned now."""
        planned = self.select(name)
        return bool(thing and planned) and objects.notes(planned[0])[objects.TEMPLATE] == objects.notes(
            thing or {}
        ).get(objects.TEMPLATE)

    def others(self) -> list[Object]:
        """All that runs nothing: what workloads read, and what leads to them."""
        return [one for one in self.things if objects.kind(one) not in objects.CONTROLLERS]


def _marked(thing: Object) -> Object:
    notes = {**objects.notes(thing), objects.TEMPLATE: digests.digest(thing["spec"])}
    return {**thing, "metadata": {**thing["metadata"], "annotations": notes}}


def _parsed(text: str) -> list[dict[str, Any]]:
    import yaml  # late: it costs 30 ms

    return [one for one in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if one]
