"""The pod in which the single commands of a task run: made for the first of them, gone with the task.

The service may be down, or of another database than the commands are for. So it is a pod of its own, made from the
service's template, whose container only waits. A command that needs other variables than it has gets them by `env`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from helpers import at_end, digests, waiting
from helpers.engines.kubernetes import objects, pods, specs
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.kubectl import Kubectl
from helpers.engines.kubernetes.objects import Object
from helpers.engines.kubernetes.rendering import Rendering
from helpers.errors import TrackbedError
from helpers.services import State

READY_SECONDS = 120.0  # until it runs
TRIES = 2  # at beginning one: such a pod is never begun again
LONGEST = 48 * 3600  # seconds that it may live, whatever becomes of this process; a command takes 24 hours at most
WAITS = "wait"  # the init container that waits for what such a pod may be there to make
Key = tuple[str, str, str]  # context, namespace, service


@dataclass(frozen=True)
class ToolPod:
    """``made_from``: the hash of all but its variables."""

    name: str
    made_from: str
    environment: Mapping[str, str]


_running: dict[Key, ToolPod] = {}  # whichever of the task's engine objects asked for them


class ToolPods(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, rendering: Rendering) -> None:
        super().__init__(deployment)
        self.rendering = rendering

    def take(self, service: str, argv: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """The pod for a command of a service, and the command as it is run there. Raises TrackbedError."""
        thing = pod(service, self.rendering.things, self.node(service))
        environment, _ = self._described(thing)
        running = self.hold(service, thing, objects.WORKLOADS[service].container)
        return running.name, (*_assignments(running.environment, environment), *argv)

    def hold(self, what: str, thing: Object, container: str) -> ToolPod:
        """A pod that waits, named after ``what``; the one that the task has, where it was made from the same."""
        key = (self.kubectl.context, self.kubectl.namespace, what)
        environment, made_from = self._described(thing)
        running = _running.get(key)
        if running is None or running.made_from != made_from or not self._is_up(running.name, container):
            _end(self.kubectl, key)
            at_end.call(partial(_end, self.kubectl, key))
            named = partial(ToolPod, made_from=made_from, environment=environment)
            running = self._begin(key, thing, container, named)
        return running

    def node(self, service: str) -> str:
        """Where the service runs now, if its volume may attach to no other node."""
        if objects.WORKLOADS[service].kind != "StatefulSet":
            return ""
        listed = self.kubectl.listed("pods", f"--selector={objects.PART}={service}")
        return next((str(one["spec"]["nodeName"]) for one in listed if one["spec"].get("nodeName")), "")

    def _described(self, thing: Object) -> tuple[dict[str, str], str]:
        """Its variables, and the hash of all else."""
        spec = thing["spec"]
        (container,) = spec["containers"]
        given = container.get("env") or []
        environment = {one["name"]: str(one["value"]) for one in given if "value" in one}
        others = [one for one in given if "value" not in one]
        bare = {**spec, "containers": [{**container, "env": others}]}
        return environment, digests.digest(bare, self.deployment.secrets_digest())

    def _is_up(self, name: str, container: str) -> bool:
        """Whether it still is: its node may have gone, or somebody typed `invoke down` beside this."""
        live = self.kubectl.find("pod", name)
        if live is None or "deletionTimestamp" in live["metadata"]:
            return False
        return pods.view(live, container).state is State.READY

    def _begin(self, key: Key, thing: Object, container: str, named: partial[ToolPod]) -> ToolPod:
        left = TRIES
        while True:
            left -= 1
            made = _running[key] = named(f"run-{key[2]}-{secrets.token_hex(4)}")
            try:
                self.kubectl.apply(
                    [{**thing, "metadata": {**thing["metadata"], "name": made.name}}], f"pod {made.name}"
                )
                if self._begins(made.name, container, final=not left):
                    return made
            except BaseException:
                _end(self.kubectl, key)
                raise
            _end(self.kubectl, key)

    def _begins(self, name: str, container: str, final: bool) -> bool:
        """Whether it runs; False where its node could not begin it, which another pod may not meet. Raises
        TrackbedError for what another one would meet too, and where this was the ``final`` try."""
        last = pods.View(State.STARTING)

        def look() -> bool:
            nonlocal last
            live = self.kubectl.find("pod", name)
            if live is None:
                raise TrackbedError(f"pod {name} was deleted by somebody else", "run the same command again")
            last = pods.view(live, container)
            if last.state is State.EXITED or (final and last.state is State.RESTARTING):
                raise TrackbedError(f"pod {name} does not start: {last.reason}", "`invoke doctor` shows more")
            return last.state in (State.READY, State.RESTARTING)

        if not waiting.until(look, READY_SECONDS, 0.2):
            why = f": {last.reason}" if last.reason else ""
            raise TrackbedError(f"pod {name} does not start within {READY_SECONDS:.0f} s{why}", "`invoke doctor`")
        return last.state is State.READY


def _end(kubectl: Kubectl, key: Key) -> None:
    """Delete the one that runs, if one does. What has happened to its command is what has to be told."""
    if running := _running.pop(key, None):
        with suppress(TrackbedError):
            kubectl.delete("pod", [running.name], grace=0)


def _assignments(given: Mapping[str, str], needed: Mapping[str, str]) -> tuple[str, ...]:
    """The words before a command that needs other variables than its pod has."""
    unset = [word for name in given if name not in needed for word in ("-u", name)]
    other = [f"{name}={value}" for name, value in needed.items() if given.get(name) != value]
    return ("env", *unset, *other) if unset or other else ()


def pod(service: str, things: tuple[Object, ...], node: str = "") -> Object:
    """A pod with a service's image, variables, files and volumes, whose container only waits; still without a name.

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
        "metadata": {"namespace": thing["metadata"].get("namespace"), "labels": labels},
        "spec": spec,
    }
