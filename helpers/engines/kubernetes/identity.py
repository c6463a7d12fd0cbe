"""Which cluster a context leads to: contexts of one name lead to many, and a kubeconfig is written anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers import digests
from helpers.engines.kubernetes.kubectl import Kubectl

SECONDS = 10.0


@dataclass(frozen=True)
class Identity:
    """``uid``: of the namespace kube-system, "" where the user may not see it; ``server``: the hash of the API server's
    address and of the certificate that vouches for it, "" where the kubeconfig has none."""

    uid: str = ""
    server: str = ""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Identity:
        """From what `asdict` gave; one that knows nothing from what an earlier version kept."""
        return cls(str(data.get("uid", "")), str(data.get("server", "")))

    def contradicts(self, other: Identity) -> bool:
        """Whether they are surely two clusters, as far as both are known."""
        if self.uid and other.uid:
            return self.uid != other.uid
        return bool(self.server and other.server) and self.server != other.server

    def __bool__(self) -> bool:
        return bool(self.uid or self.server)

    def as_data(self) -> dict[str, str]:
        return asdict(self)


def look(kubectl: Kubectl, kept: Identity | None) -> Identity:
    """Of the cluster that the context leads to now, as far as it decides whether that is the ``kept`` one; else all."""
    words = ("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}", f"--request-timeout={SECONDS:.0f}s")
    asked = kubectl.run(*words, timeout=SECONDS + 5)
    uid = asked.stdout.strip() if asked.code == 0 else ""
    return Identity(uid, "" if uid and kept and kept.uid else _server(kubectl))


def _server(kubectl: Kubectl) -> str:
    view = kubectl.run("config", "view", "--minify", "--raw", "-o", "jsonpath={.clusters[0].cluster}")
    try:
        cluster = dict(json.loads(view.stdout)) if view.code == 0 else {}
        authority = cluster.get("certificate-authority-data") or _content(cluster.get("certificate-authority"))
        return digests.digest(str(cluster["server"]), authority) if cluster.get("server") else ""
    except ValueError:
        return ""


def _content(path: str | None) -> str:
    try:
        return Path(path).read_text(errors="replace") if path else ""
    except OSError:
        return ""
