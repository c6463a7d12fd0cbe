"""Which cluster and which namespace a project is in: asked once, and kept, whatever the current context becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from helpers.engines.kubernetes import kubectl, objects
from helpers.engines.kubernetes.identity import Identity
from helpers.errors import EngineUnavailable, SettingError, TrackbedError
from helpers.project.state import make_folder, write_private
from helpers.settings import Settings

FOLDER = "kubernetes"  # in the project's state folder
FILE = "cluster.json"


@dataclass(frozen=True)
class Target:
    """A context of the kubeconfig, and a namespace in its cluster."""

    context: str
    namespace: str
    cluster: Identity | None = None  # of one that is kept: its namespace was made, or taken


def folder(settings: Settings) -> Path:
    return settings.folder / FOLDER


def choose(settings: Settings) -> Target:
    """Where the project is, or would be. Raises EngineUnavailable without a context, SettingError for another one."""
    kept = _read(folder(settings) / FILE)
    asked = Target(settings.kube_context, settings.kube_namespace)
    if kept:
        for name, given, is_kept in (
            ("KUBE_CONTEXT", asked.context, kept.context),
            ("KUBE_NAMESPACE", asked.namespace, kept.namespace),
        ):
            if given and given != is_kept:
                raise SettingError(
                    f"{name}={given} (from {settings.origin(name)}): this project's data are in namespace "
                    f"{kept.namespace} of context {kept.context}.",
                    "leave it out; or start another project there with --project=NAME",
                )
        return kept
    names, current = kubectl.contexts()
    context = asked.context or current
    if not context:
        raise EngineUnavailable(
            f"the kubeconfig ({kubectl.configuration()}) names no cluster",
            "put your cluster's into it, as its provider says; or set KUBECONFIG; `kubectl config get-contexts`",
        )
    if context not in names:
        raise EngineUnavailable(
            f"there is no context {context} in the kubeconfig ({kubectl.configuration()})",
            f"choose one of {', '.join(names)} with KUBE_CONTEXT"
            if names
            else "`kubectl config get-contexts` shows those that exist",
        )
    return Target(context, asked.namespace or objects.namespace(settings.project))


def keep(settings: Settings, target: Target, cluster: Identity) -> None:
    """Remember it, once its namespace is the project's."""
    content = {"context": target.context, "namespace": target.namespace, "cluster": cluster.as_data()}
    write_private(make_folder(folder(settings), private=True) / FILE, (json.dumps(content) + "\n").encode())


def forget(settings: Settings) -> None:
    """The project has no data there any more."""
    (folder(settings) / FILE).unlink(missing_ok=True)


def _read(path: Path) -> Target | None:
    try:
        data = json.loads(path.read_bytes())
        return Target(str(data["context"]), str(data["namespace"]), Identity.of(data.get("cluster") or {}))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise TrackbedError(f"{path} is damaged", f"remove it: rm {path}; then type `invoke up --adopt`") from None
