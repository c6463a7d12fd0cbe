"""Who may log in at the gateway: handed to a pod that runs, in its Secret."""

from __future__ import annotations

import base64

from helpers import digests
from helpers.engines.kubernetes import objects, secrets
from helpers.engines.kubernetes.deployment import KubernetesComponent
from helpers.project import users
from helpers.services import GATEWAY

READ = "dev.trackbed.users"  # annotation of the pod: the hash of what it has been handed


class Logins(KubernetesComponent):
    def put(self) -> tuple[str, ...]:
        """The gateway looks at the file all the time; nothing where there is no gateway. Gives what to tell where its
        node is late. Raises TrackbedError."""
        present = self.kubectl.find("secret", secrets.name(GATEWAY))
        if present is None:
            return ()
        listed = users.render(users.load(self.deployment.settings)).encode()
        data = {**(present.get("data") or {}), users.FILE: base64.b64encode(listed).decode()}
        self.kubectl.apply([secrets.secret(self.deployment, secrets.name(GATEWAY), GATEWAY, data)], "the logins")
        # a node that sees its pod change looks at the pod's Secrets at once, not within the next minutes
        mark = f"{READ}={digests.digest(data)}"
        pod = f"{objects.WORKLOADS[GATEWAY].name}-0"
        done = self.kubectl.run("annotate", "pod", pod, mark, "--overwrite", "--request-timeout=20s")
        if not done.code or "(NotFound)" in done.stderr:
            return ()
        why = self.kubectl.refusal(done, f"mark pod {pod}")
        return (f"this counts within two minutes, not at once: {why.message} ({why.hint})",)
