"""Who may log in at the gateway, and MLflow's start page: handed to pods that run, in their Secrets."""

from __future__ import annotations

import base64
import hashlib

from helpers.engines.kubernetes import objects, secrets
from helpers.engines.kubernetes.deployment import KubernetesComponent
from helpers.project import server_secrets, users
from helpers.services import GATEWAY, MLFLOW, ExecResult

READ = "dev.trackbed.users"  # annotation of the pod: the hash of what it has been handed


class Logins(KubernetesComponent):
    def put_start_page(self, content: bytes) -> None:
        """MLflow's pods show it a moment later, and within two minutes where they cannot be marked. Raises
        TrackbedError."""
        if self._put(MLFLOW, server_secrets.START_PAGE, content, "the start page"):
            self._mark(content, "pods", f"{self.deployment.selector},{objects.PART}={MLFLOW}")

    def _put(self, service: str, path: str, content: bytes, what: str) -> bool:
        """Replace one file of a service's Secret; False where there is no such Secret."""
        change = {"data": {path: base64.b64encode(content).decode()}}
        return self.kubectl.patch("secret", secrets.name(service), change, what)

    def put(self) -> tuple[str, ...]:
        """The gateway looks at the file all the time; nothing where there is no gateway. Gives what to tell where its
        node is late. Raises TrackbedError."""
        content = users.render(users.load(self.deployment.settings)).encode()
        if not self._put(GATEWAY, users.FILE, content, "the logins"):
            return ()
        pod = f"{objects.WORKLOADS[GATEWAY].name}-0"
        done = self._mark(content, "pod", pod)
        if not done.code or "(NotFound)" in done.stderr:
            return ()
        why = self.kubectl.refusal(done, f"mark pod {pod}")
        return (f"this counts within two minutes, not at once: {why.message} ({why.hint})",)

    def _mark(self, content: bytes, *pods: str) -> ExecResult:
        """A node that sees its pod change looks at the pod's Secrets at once, not within the next minutes."""
        mark = f"{READ}={hashlib.sha256(content).hexdigest()}"
        return self.kubectl.run("annotate", *pods, mark, "--overwrite", "--request-timeout=20s")
