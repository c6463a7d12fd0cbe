"""Running a command in a service's pod, or in a pod of its own that is made from the service's template."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from helpers import waiting
from helpers.engines import streaming
from helpers.engines.kubernetes import objects, pods, refusals, specs
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.kubectl import Object
from helpers.engines.kubernetes.rendering import Rendering
from helpers.errors import TrackbedError
from helpers.services import JUPYTER, ExecResult, State

READY_SECONDS = 120.0  # until a pod of its own runs
TRIES = 2  # at beginning one: such a pod is never begun again
LONGEST = 24 * 3600  # seconds that such a pod may live, whatever becomes of this process
WAITS = "wait"  # the init container that waits for what such a pod may be there to make


class PodCommands(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, rendering: Rendering) -> None:
        super().__init__(deployment)
        self.rendering = rendering

    def run(self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None, timeout: float) -> ExecResult:
        """In the service itself, as its user and with its environment."""
        workload = objects.WORKLOADS[service]
        return self._exec(workload.reference, workload.container, argv, stdin, timeout, limited=service == JUPYTER)

    def _exec(
        self,
        where: str,
        container: str,
        argv: tuple[str, ...],
        stdin: IO[bytes] | bytes | None,
        timeout: float,
        limited: bool = False,
    ) -> ExecResult:
        words = _words(where, container, argv)
        done = self.kubectl.run(*words, stdin=stdin, timeout=timeout, limited=limited)
        return ExecResult(done.code, done.stdout, refusals.without_end(done.stderr))

    def run_apart(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None, timeout: float
    ) -> ExecResult:
        """In a pod of its own; the service may be down."""
        with self._pod(service) as name:
            return self._exec(f"pod/{name}", objects.WORKLOADS[service].container, argv, stdin, timeout)

    @contextmanager
    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool) -> Iterator[streaming.Pipe]:
        """Its input and output stream through this process."""
        workload = objects.WORKLOADS[service]
        if not fresh:
            with self._piped(workload.reference, workload.container, argv) as pipe:
                yield pipe
            return
        with self._pod(service) as name, self._piped(f"pod/{name}", workload.container, argv) as pipe:
            yield pipe

    @contextmanager
    def _piped(self, where: str, container: str, argv: tuple[str, ...]) -> Iterator[streaming.Pipe]:
        command = self.kubectl.command(*_words(where, container, argv))
        with streaming.piped(argv[0], command, ignored=refusals.ENDED) as pipe:
            yield pipe

    @contextmanager
    def _pod(self, service: str) -> Iterator[str]:
        """A pod that only waits, with all that the service has; gone with the context."""
        node = self._node(service)
        for left in reversed(range(TRIES)):
            pod = apart(service, self.rendering.things, f"run-{service}-{secrets.token_hex(4)}", node)
            name = objects.name(pod)
            try:
                self.kubectl.apply([pod], f"pod {name}")
                if begun := self._begins(name, objects.WORKLOADS[service].container, final=not left):
                    yield name
            except BaseException:
                with suppress(TrackbedError):  # what has happened is what has to be told
                    self.kubectl.delete("pod", [name], grace=0)
                raise
            self.kubectl.delete("pod", [name], grace=0)
            if begun:
                return

    def _node(self, service: str) -> str:
        """Where the service runs now: its volume may attach to no other node."""
        listed = self.kubectl.listed("pods", f"--selector={objects.PART}={service}")
        return next((str(pod["spec"]["nodeName"]) for pod in listed if pod["spec"].get("nodeName")), "")

    def _begins(self, name: str, container: str, final: bool) -> bool:
        """Whether it runs; False where its node could not begin it, which another pod may not meet. Raises
        TrackbedError for what another one would meet too, and where this was the ``final`` try."""
        last = pods.View(State.STARTING)

        def look() -> bool:
            nonlocal last
            pod = self.kubectl.find("pod", name)
            if pod is None:
                raise TrackbedError(f"pod {name} was deleted by somebody else", "run the same command again")
            last = pods.view(pod, container)
            if last.state is State.EXITED or (final and last.state is State.RESTARTING):
                raise TrackbedError(f"pod {name} does not start: {last.reason}", "`invoke doctor` shows more")
            return last.state in (State.READY, State.RESTARTING)

        if not waiting.until(look, READY_SECONDS, 0.2):
            why = f": {last.reason}" if last.reason else ""
            raise TrackbedError(f"pod {name} does not start within {READY_SECONDS:.0f} s{why}", "`invoke doctor`")
        return last.state is State.READY


def _words(where: str, container: str, argv: tuple[str, ...]) -> list[str]:
    return ["exec", "--stdin", where, f"--container={container}", "--", *argv]


def apart(service: str, things: tuple[Object, ...], name: str, node: str = "") -> Object:
    """A pod with a service's image, variables, files and volumes, whose container only waits.

    No Service leads to it, and ConfigMaps need not be there: it may be of another database than what runs.
    """
    workload = objects.WORKLOADS[service]
    thing = objects.find(things, workload.kind, workload.name)
    assert thing is not None
    template = thing["spec"]["template"]
    given = template["spec"]
    container: dict[str, Any] = dict(objects.container(given, workload.container) or {})
    for unwanted in ("args", "ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle"):
        container.pop(unwanted, None)
    known = specs.environment(objects.container(given, workload.container) or {}, things)
    container["envFrom"] = [one for one in container.get("envFrom") or () if "secretRef" in one]
    named = {one["name"] for one in container.get("env") or ()}
    container["env"] = [
        *(container.get("env") or ()),
        *({"name": key, "value": value} for key, value in known.items() if key not in named),
    ]
    container["command"] = ["sleep", str(LONGEST)]
    spec: dict[str, Any] = {
        **given,
        "containers": [container],
        "initContainers": [one for one in given.get("initContainers") or () if one["name"] != WAITS],
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LONGEST,
        "terminationGracePeriodSeconds": 0,
    }
    spec.pop("topologySpreadConstraints", None)
    claims = [one["metadata"]["name"] for one in thing["spec"].get("volumeClaimTemplates") or ()]
    spec["volumes"] = [
        *(given.get("volumes") or ()),
        *({"name": one, "persistentVolumeClaim": {"claimName": f"{one}-{workload.name}-0"}} for one in claims),
    ]
    if node and workload.kind == "StatefulSet":
        spec["nodeName"] = node
    labels = {**template["metadata"]["labels"], objects.PART: objects.apart(service)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": thing["metadata"].get("namespace"), "labels": labels},
        "spec": spec,
    }
