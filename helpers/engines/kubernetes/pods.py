"""The state of a service, from its workload and its pods. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.objects import Object, Workload
from helpers.services import ServiceStatus, State
from helpers.suggestions import shown

NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
CANNOT_BEGIN = ("CreateContainerConfigError",)
TRIES_AGAIN = ("CreateContainerError", "RunContainerError")  # its node may be busy, or have just begun itself
FINAL = 78  # exit code of ours (EX_CONFIG): the same would come of another try
SILENT_SECONDS = 30.0  # of a container that began long ago and is not ready: then it will not be by waiting


@dataclass(frozen=True)
class View:
    """One pod of a service, as far as the service's container goes."""

    state: State
    reason: str = ""
    exit_code: int | None = None
    restarts: int = 0
    since: str = ""
    image: str = ""


def status(service: str, workload: Workload, thing: Object | None, pods: Iterable[Object]) -> ServiceStatus:
    """``thing``: the workload as it is now, None where there is none; ``pods`` are those of its service."""
    if thing is None:
        return ServiceStatus(service, State.MISSING)
    listed = sorted(
        (pod for pod in pods if (pod.get("status") or {}).get("phase") != "Failed" or workload.kind == "Job"),
        key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")),
    )
    alive = [pod for pod in listed if not pod["metadata"].get("deletionTimestamp")]
    identity = _identity(thing)
    gpu = str((_template(thing).get("annotations") or {}).get(objects.GPU, "")).replace("none", "")
    if workload.kind == "Job":
        return _job(service, thing, alive, workload, identity)
    replicas = int(thing["spec"].get("replicas", 1))
    if not replicas:
        return ServiceStatus(service, State.EXITED, "stopped", identity=identity)
    views = [view(pod, workload.container) for pod in alive]
    if not views:
        reason = "the pods that it had are ending" if listed else "no pod yet"
        return ServiceStatus(service, State.STARTING, reason, identity=identity)
    worst = min(views, key=lambda one: RANK.index(one.state))
    state, reason = worst.state, worst.reason
    if state is State.READY:
        state, reason = _rollout(thing, workload, replicas)
    if not reason and replicas > 1 and state is not State.READY:
        ready = sum(one.state is State.READY for one in views)
        reason = f"{ready} of {replicas} ready"
    return ServiceStatus(
        service,
        state,
        reason,
        worst.exit_code,
        worst.image,
        since=worst.since,
        restarts=worst.restarts,
        identity=identity,
        accelerator=gpu,
    )


RANK = (State.EXITED, State.RESTARTING, State.UNHEALTHY, State.STARTING, State.RUNNING, State.READY)


def _template(thing: Object) -> Mapping[str, Any]:
    return thing["spec"]["template"].get("metadata") or {}


def _identity(thing: Object) -> str:
    """Another one once a service was made anew: the workload, and the template that its pods are made from."""
    status = thing.get("status") or {}
    made = status.get("updateRevision") or objects.notes(thing).get("deployment.kubernetes.io/revision") or ""
    return f"{thing['metadata'].get('uid', '')}@{made}"


def _rollout(thing: Object, workload: Workload, replicas: int) -> tuple[State, str]:
    """Whether every pod is of today's template; all those that are there are ready."""
    status = thing.get("status") or {}
    if int(status.get("observedGeneration", 0)) < int(thing["metadata"].get("generation", 0)):
        return State.STARTING, "its change was not seen yet"
    ready, updated = int(status.get("readyReplicas", 0)), int(status.get("updatedReplicas", 0))
    if workload.kind == "StatefulSet" and status.get("currentRevision") == status.get("updateRevision"):
        updated = max(updated, int(status.get("currentReplicas", 0)))
    if updated < replicas or int(status.get("replicas", 0)) > replicas:
        return State.STARTING, f"{min(updated, replicas)} of {replicas} replaced"
    return (State.READY, "") if ready >= replicas else (State.STARTING, f"{ready} of {replicas} ready")


def _job(service: str, thing: Object, pods: list[Object], workload: Workload, identity: str) -> ServiceStatus:
    status = thing.get("status") or {}
    image = str((objects.container(thing["spec"]["template"]["spec"], workload.container) or {}).get("image", ""))
    if status.get("succeeded"):
        return ServiceStatus(service, State.DONE, exit_code=0, image=image, identity=identity)
    failed = next((c for c in status.get("conditions") or () if c["type"] == "Failed" and c["status"] == "True"), None)
    seen = view(pods[-1], workload.container) if pods else View(State.STARTING, "no pod yet")
    if failed:
        return ServiceStatus(
            service, State.EXITED, str(failed.get("message", "")), seen.exit_code, image, identity=identity
        )
    if seen.state is State.EXITED or seen.exit_code == FINAL:
        return ServiceStatus(service, State.EXITED, seen.reason, seen.exit_code, image, identity=identity)
    # a Job tries again by itself until it says that it has failed; it is up once it has ended well
    reason = seen.reason
    if seen.state is State.RESTARTING:
        reason = f"it tries again: {seen.reason}" if seen.exit_code else ""
    return ServiceStatus(service, State.STARTING, reason, image=image, since=seen.since, identity=identity)


def view(pod: Object, container: str) -> View:
    """How one pod is."""
    status = pod.get("status") or {}
    for one in status.get("initContainerStatuses") or ():
        if (waiting_state := _waiting(one)) and not one.get("ready"):
            return waiting_state
    own = next((one for one in status.get("containerStatuses") or () if one["name"] == container), None)
    if own is None:
        return View(State.STARTING, _unscheduled(status))
    restarts, image = int(own.get("restartCount", 0)), str(own.get("image", ""))
    if waiting_state := _waiting(own):
        return View(waiting_state.state, waiting_state.reason, waiting_state.exit_code, restarts, image=image)
    state = own.get("state") or {}
    if "terminated" in state:
        code = int(state["terminated"].get("exitCode", 0))
        return View(State.RESTARTING, _why(state["terminated"]), code, restarts, image=image)
    if "running" not in state:
        return View(State.STARTING, _initialising(status), restarts=restarts, image=image)
    since = str(state["running"].get("startedAt", ""))
    if own.get("ready"):
        return View(State.READY, "", None, restarts, since, image)
    changed: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c["type"] == "ContainersReady"), {})
    silent = own.get("started") and min(age(since), age(str(changed.get("lastTransitionTime", "")))) > SILENT_SECONDS
    if silent:
        return View(State.UNHEALTHY, "it does not answer its readiness probe", None, restarts, since, image)
    return View(State.STARTING, "", None, restarts, since, image)


def _waiting(status: Mapping[str, Any]) -> View | None:
    """Why a container does not begin, where that is more than waiting for its turn."""
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    said = shown(message or reason, 300)
    if reason in NO_IMAGE:
        return View(State.EXITED, f"its node cannot get the image {shown(str(status.get('image', '')))}: {said}")
    if reason in CANNOT_BEGIN:
        return View(State.EXITED, f"it cannot begin: {said}")
    if reason in TRIES_AGAIN:
        return View(State.STARTING, f"its node tries again to begin it: {said}")
    if reason == "ContainerCreating":
        return View(State.STARTING, "its node fetches its image, or attaches its volumes")
    if reason == "CrashLoopBackOff":
        last = (status.get("lastState") or {}).get("terminated") or {}
        return View(State.RESTARTING, _why(last), int(last.get("exitCode", 1)), int(status.get("restartCount", 0)))
    return None


def _why(terminated: Mapping[str, Any]) -> str:
    if terminated.get("reason") == "OOMKilled":
        return "killed: it needed more memory than its limit"
    # the container's own words, which the notebook's user chooses
    return shown(str(terminated.get("message") or f"exit code {terminated.get('exitCode', 0)}"), 200)


def _unscheduled(status: Mapping[str, Any]) -> str:
    scheduled: Mapping[str, Any] = next((c for c in status.get("conditions") or () if c["type"] == "PodScheduled"), {})
    return str(scheduled.get("message", "")) if scheduled.get("status") == "False" else ""


def _initialising(status: Mapping[str, Any]) -> str:
    for one in status.get("initContainerStatuses") or ():
        if "running" in (one.get("state") or {}):
            return {"wait": "waits for the database, its tables and the bucket"}.get(one["name"], "")
    return ""


def is_left(pod: Object, thing: Object) -> bool:
    """Whether a StatefulSet's pod of an earlier template is not ready: its controller waits for that, for ever."""
    status = thing.get("status") or {}
    if int(status.get("observedGeneration", 0)) < int(thing["metadata"].get("generation", 0)):
        return False
    revision = objects.labels(pod).get("controller-revision-hash")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())
    return revision != status.get("updateRevision") and not ready and "deletionTimestamp" not in pod["metadata"]


def age(text: str) -> float:
    """Seconds since a time of the API."""
    try:
        return time.time() - datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
