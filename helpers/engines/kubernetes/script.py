"""`up --dry-run`: every object as YAML, for people who keep theirs in Git, and what has to be made by hand."""

from __future__ import annotations

from helpers.engines.kubernetes import secrets
from helpers.engines.kubernetes.deployment import KubernetesDeployment


def manifests(text: str, deployment: KubernetesDeployment) -> str:
    """``text``: the rendered objects."""
    target = deployment.target
    head = (
        f"# What `invoke up --engine=kubernetes` applies for project {deployment.settings.project} in "
        f"{deployment.where}:\n#   kubectl apply --server-side --context {target.context} -f FILE"
    )
    return f"{head}\n{secrets.by_hand(deployment)}\n{text}"
