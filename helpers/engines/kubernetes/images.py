"""Which image each service runs in the cluster: the settings', by the name under which the nodes have it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from helpers import references
from helpers.engines import notebook_image
from helpers.engines.kubernetes import pushed
from helpers.engines.kubernetes.cluster import Cluster
from helpers.engines.kubernetes.deployment import KubernetesDeployment
from helpers.gpu.accelerator import Accelerator
from helpers.services import GATEWAY, JUPYTER, MLFLOW, POSTGRES, STORE

OWN = "trackbed/"  # what is built here, and has to be brought to the nodes
BRING = (
    "bring it to the nodes: `invoke build --push --registry=HOST/PATH`, and IMAGE_REGISTRY=HOST/PATH in .env; without "
    "a registry: `invoke build --load`"
)
MIRROR = "name a registry that has it and that the nodes reach: REGISTRY_MIRROR=HOST/PATH in .env"


def bring(service: str) -> str:
    """How the nodes get the image of a service that they cannot get."""
    return MIRROR if service in (POSTGRES, STORE) else BRING


class Images:
    """By service; the object store's by its own name, as it is in docker/references.toml."""

    def __init__(self, deployment: KubernetesDeployment, cluster: Cluster, accelerator: Accelerator) -> None:
        self.deployment, self.cluster, self.accelerator = deployment, cluster, accelerator

    @cached_property
    def notebook(self) -> notebook_image.NotebookImage:
        return notebook_image.choose(self.deployment.settings, self.accelerator)

    def references(self) -> dict[str, str]:
        """What each service is started from."""
        settings, store = self.deployment.settings, self.deployment.object_store
        result = {JUPYTER: self._own(self.notebook.name)}
        if self.deployment.notebook_only:
            return result
        result |= {MLFLOW: self._own(settings.mlflow_image), POSTGRES: self._others("postgres")}
        if self.deployment.is_public:
            result[GATEWAY] = self._own(settings.gateway_image)
        return result if store == "external" else {**result, store: self._others(store)}

    def _own(self, name: str) -> str:
        registry = self.deployment.settings.image_registry
        if not registry or not name.startswith(OWN):
            return name
        return pushed.reference(self.deployment.settings, f"{registry}/{name.removeprefix(OWN)}")

    def _others(self, key: str) -> str:
        settings = self.deployment.settings
        chosen: str = getattr(settings, f"{key}_image")
        reference = references.mirrored(
            chosen, settings.registry_mirror if chosen == references.image(key).reference else ""
        )
        return local(reference, self.cluster.images)


def local(reference: str, present: Iterable[str]) -> str:
    """The reference, or its name alone where the nodes have only that: what was loaded has no digest of a registry."""
    name = references.without_digest(reference)
    if name == reference or not (known := set(present)) or {reference, full(reference)} & known:
        return reference
    return name if {name, full(name)} & known else reference


def full(name: str) -> str:
    """A short name as container runtimes list it: postgres:18 is docker.io/library/postgres:18."""
    host, slash, _ = name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"
