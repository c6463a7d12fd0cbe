"""Bringing the services up in steps: the database and the store, the Jobs that prepare them, then what uses them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from helpers import waiting
from helpers.engines import shared
from helpers.engines.base import Engine
from helpers.engines.failures import stop_at_failed
from helpers.engines.kubernetes import images, objects, pods, secrets
from helpers.engines.kubernetes.database import Database
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.forwards import Forwards
from helpers.engines.kubernetes.inspection import Inspection, pods_of
from helpers.engines.kubernetes.kubectl import Object
from helpers.engines.kubernetes.ownership import Namespace
from helpers.engines.kubernetes.rendering import Rendering
from helpers.engines.kubernetes.scheduled_backups import ScheduledBackups
from helpers.engines.kubernetes.volumes import Volumes
from helpers.errors import EngineUnavailable, ServiceFailed, TrackbedError
from helpers.services import (
    BUCKET,
    GATEWAY,
    JUPYTER,
    MLFLOW,
    POSTGRES,
    SCHEMA,
    STORE,
    STORE_SYNC,
    ProgressReporter,
    State,
)

LOOK_SECONDS = 0.5  # between two looks at what starts
DELETE_SECONDS = 90.0
SILENCE_SECONDS = 30.0  # of the API server, after which the start is given up
PLACE_SECONDS, VOLUME_SECONDS, ATTACH_SECONDS = 5.0, 45.0, 120.0  # in which a pod that has no place may still get one
FIRST = (POSTGRES, STORE, STORE_SYNC)
JOBS = (SCHEMA, BUCKET)
KINDS = (
    "configmaps,services,networkpolicies,poddisruptionbudgets,statefulsets,deployments,cronjobs,jobs"  # ours to prune
)


class Startup(KubernetesComponent):
    def __init__(
        self,
        deployment: KubernetesDeployment,
        engine: Engine,
        namespace: Namespace,
        rendering: Rendering,
        inspection: Inspection,
        database: Database,
        forwards: Forwards,
        backups: ScheduledBackups,
    ) -> None:
        super().__init__(deployment)
        self.backups = backups
        self.volumes = Volumes(deployment)
        self.engine, self.namespace, self.rendering = engine, namespace, rendering
        self.inspection, self.database, self.forwards = inspection, database, forwards

    def start(self, progress: ProgressReporter) -> None:
        with shared.interruptible():
            self._start(progress)

    def _start(self, progress: ProgressReporter) -> None:
        progress.step(f"preparing {self.deployment.where}")
        self.namespace.make()
        self.volumes.settle(self.rendering.things, progress)
        self.kubectl.apply([*secrets.rendered(self.deployment), *self.backups.secrets()], "the services' secrets")
        self.kubectl.apply(self.rendering.others(), "what the services read")
        self._end_failed(progress)
        notebook = self.rendering.select(JUPYTER)
        progress.step("starting the services")
        if self.deployment.notebook_only:
            self._bring_up(notebook, (JUPYTER,), progress)
        else:
            names = [name for name in FIRST if name in self.deployment.services]
            # the notebook asks for nothing before somebody logs in; its node may have to fetch its image meanwhile
            self._bring_up([*self.rendering.select(*names), *notebook], names, progress)
            self.database.settle(progress)
            self._prepare(progress)
            served = [name for name in (MLFLOW, GATEWAY) if name in self.deployment.services]
            self._bring_up(self.rendering.select(*served), (*served, JUPYTER), progress)
        self._prune(progress)
        self.forwards.start(progress)

    def _end_failed(self, progress: ProgressReporter) -> None:
        """Pods that failed go: not to sit out the cluster's pause before its next try, and their failures are old."""
        things, statuses = self.inspection.things(), self.inspection.statuses()
        failed = [one for one in statuses if one.failed and objects.WORKLOADS[one.name].kind != "Job"]
        self._end_surplus(things, progress)
        names = {objects.name(pod): status.name for status in failed for pod in pods_of(status.name, things)}
        for service in dict.fromkeys(names.values()):
            progress.service(service, "stopping", "it had failed")
        self.kubectl.delete("pods", list(names), wait=DELETE_SECONDS)

    def _end_surplus(self, things: Iterable[Object], progress: ProgressReporter) -> None:
        """Servers that will be too many end before the database, which then allows fewer connections."""
        workload, replicas = objects.WORKLOADS[MLFLOW], self.settings.mlflow_replicas
        thing = objects.find(things, workload.kind, workload.name)
        if thing is None or int(thing["spec"].get("replicas", 1)) <= replicas:
            return
        progress.service(MLFLOW, "stopping", f"all but {replicas}")
        self.kubectl.ask(f"scale {MLFLOW}", "scale", workload.reference, f"--replicas={replicas}")
        waiting.until(lambda: len(pods_of(MLFLOW, self.inspection.things())) <= replicas, DELETE_SECONDS, LOOK_SECONDS)

    def _bring_up(self, things: list[Object], awaited: Iterable[str], progress: ProgressReporter) -> None:
        self.kubectl.apply(things, ", ".join(map(objects.name, things)))
        self._await(awaited, progress)

    def _prepare(self, progress: ProgressReporter) -> None:
        """MLflow's tables and the bucket are there."""
        if os.environ.get("TRACKBED_MIGRATE") == "1":
            self.engine.halt(MLFLOW, progress)  # nobody writes into tables that are changed
        self._renew_jobs()
        self._await(JOBS, progress)

    def _renew_jobs(self) -> None:
        """A Job cannot be changed: one of another template is deleted, one that is as planned has done its work."""
        before = {objects.name(one): one for one in self.kubectl.listed("jobs", self.deployment.selector)}
        old = [name for name in JOBS if not self.rendering.is_current(name, before.get(name)) or _failed(before[name])]
        self.kubectl.delete("jobs", [name for name in old if name in before], wait=DELETE_SECONDS)
        self.kubectl.apply(self.rendering.select(*old), "the Jobs that prepare the database and the store")

    def _await(self, awaited: Iterable[str], progress: ProgressReporter) -> None:
        """Return when these are up. Raises TrackbedError as soon as waiting is of no use, or after READY_TIMEOUT."""
        names = tuple(awaited)
        reported: dict[str, tuple[State, str]] = {}
        seen: dict[str, int] = {}
        deadline = time.monotonic() + self.settings.ready_timeout
        answered, late = time.monotonic(), "no answer"
        while True:
            try:
                if not (late := self._late(names, reported, seen, progress)):
                    return
                answered = time.monotonic()
            except EngineUnavailable:  # an API server that is replaced, or busy, answers again
                if time.monotonic() - answered > SILENCE_SECONDS:
                    raise
            if time.monotonic() > deadline:
                raise TrackbedError(
                    f"not up after {self.settings.ready_timeout} s in {self.deployment.where}: {late}",
                    "`invoke logs SERVICE` shows why; READY_TIMEOUT raises the limit",
                )
            time.sleep(LOOK_SECONDS)

    def _late(
        self,
        names: tuple[str, ...],
        reported: dict[str, tuple[State, str]],
        seen: dict[str, int],
        progress: ProgressReporter,
    ) -> str:
        """One look: which services are not up, in words; what has changed is told. Raises ServiceFailed."""
        statuses = [one for one in self.inspection.statuses() if one.name in names]
        for status in statuses:
            # ready is what answers through to the database, which is asked once all is up
            shown = State.STARTING if status.up and status.state is not State.DONE else status.state
            now = shown, "" if status.up else status.reason[:80]
            if reported.get(status.name) != now:
                progress.service(status.name, *now)
                reported[status.name] = now
        late = [f"{s.name} ({s.state}{': ' + s.reason if s.reason else ''})" for s in statuses if not s.up]
        if late:
            self._stop_at_stuck(names)
            stop_at_failed(self.engine, names, seen, statuses)
        return ", ".join(late)

    def _stop_at_stuck(self, names: Iterable[str]) -> None:
        """Raise ServiceFailed for a pod that no node takes, or whose image none can get."""
        things = self.inspection.things()
        for name in names:
            workload = objects.WORKLOADS[name]
            own, thing = pods_of(name, things), objects.find(things, workload.kind, workload.name)
            if left := [pod for pod in own if thing and workload.kind == "StatefulSet" and pods.is_left(pod, thing)]:
                self.kubectl.delete("pods", [objects.name(pod) for pod in left])
                continue
            why, fix = self.inspection.stuck(name, own)
            if why and not _is_young(own, why):
                raise ServiceFailed(name, f"{name} has no place in {self.deployment.where}: {why}", fix)
            for pod in own:
                seen = pods.view(pod, objects.WORKLOADS[name].container)
                if seen.state is State.EXITED and "cannot get the image" in seen.reason:
                    raise ServiceFailed(
                        name,
                        f"{name} in {self.deployment.where}: {seen.reason}",
                        images.bring(name),
                    )

    def _prune(self, progress: ProgressReporter) -> None:
        """Delete what an earlier start made and this one does not have: old ConfigMaps, a store that was replaced. What
        its user put there with labels of Trackbed's is theirs."""
        planned = {(objects.kind(one), objects.name(one)) for one in self.rendering.things}
        for one in self.kubectl.listed(KINDS, self.deployment.selector):
            if (objects.kind(one), objects.name(one)) in planned or "ownerReferences" in one["metadata"]:
                continue
            progress.step(f"removing {objects.kind(one)} {objects.name(one)}, which is needed no more")
            self.kubectl.delete(objects.kind(one).lower(), [objects.name(one)])


def _failed(job: Object) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Failed" and one["status"] == "True" for one in conditions)


def _is_young(own: list[Object], why: str) -> bool:
    """The scheduler may not have seen yet what frees its place: a pod that ends, a volume that is being made, or that
    another node is about to let go."""
    patience = ATTACH_SECONDS if "attached" in why else VOLUME_SECONDS if "volume" in why else PLACE_SECONDS
    return bool(own) and min(pods.age(str(pod["metadata"].get("creationTimestamp", ""))) for pod in own) < patience
