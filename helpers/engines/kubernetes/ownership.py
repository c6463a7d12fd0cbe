"""The project's namespace: whose it is, making it, and what it remembers of a state folder that was lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

from helpers.engines.kubernetes import objects, target
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.kubectl import Object
from helpers.engines.kubernetes.rendering import Rendering
from helpers.engines.kubernetes.rights import Right
from helpers.errors import TrackbedError, WrongProject

SECONDS = 120.0  # for the namespace to go
SHOWN = 5  # names of what others have in it
RUNNING = "statefulsets,deployments,daemonsets,cronjobs,pods"
ENDED = ("Succeeded", "Failed")  # phases of pods
OTHERS = "persistentvolumeclaims,statefulsets,deployments,daemonsets,cronjobs,jobs,pods,secrets"
CLUSTERS_OWN = ("kubernetes.io/service-account-token", "kubernetes.io/dockercfg")  # Secrets that nobody made


class Namespace(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, rendering: Rendering) -> None:
        super().__init__(deployment)
        self.rendering = rendering
        self._is_ours = False
        self._looking = threading.Lock()  # commands that run side by side wait for the first one's look

    def look(self) -> Object | None:
        """As it is now, with our marks as its annotations, wherever they are; None where it was not made."""
        current = self.kubectl.find("namespace", self.deployment.target.namespace)
        if current is None or objects.INSTANCE in objects.notes(current):
            return current
        kept = self.kubectl.find("configmap", objects.MARKS)
        notes = {**objects.notes(current), **((kept or {}).get("data") or {})}
        return {**current, "metadata": {**current["metadata"], "annotations": notes}}

    def check(self) -> None:
        """Refuse to start in one that Trackbed did not make, in another project's, and where the project's is gone.
        Raises TrackbedError."""
        self.rendering.cluster.require_same()
        current = self.look()
        if current is None and self.deployment.target.cluster is not None:
            raise TrackbedError(
                f"{self.deployment.where}, which has this project's data, is not there any more",
                "once it is restored, `invoke up` goes on with them; to begin anew without them: `invoke down "
                "--delete-data`, then `invoke up`",
            )
        if current is None:
            return
        if (current.get("status") or {}).get("phase") == "Terminating":
            raise TrackbedError(
                f"{self.deployment.where} is being deleted", "type the same command again when it is gone"
            )
        self._check_owner(current)

    def is_there(self) -> bool:
        """Whether it is there, and then it is this project's: asked before anything in it is stopped, deleted or run.
        Raises WrongProject, and EngineUnavailable for another cluster."""
        with self._looking:
            if not self._is_ours:
                self.rendering.cluster.require_same()
                if current := self.look():
                    self._check_owner(current)
                    self._is_ours = True
            return self._is_ours

    def refuse_others(self) -> None:
        """Raise WrongProject where it is there and another's."""
        self.is_there()

    def _check_owner(self, current: Object) -> None:
        owner = objects.notes(current).get(objects.INSTANCE)
        if owner == self.project.state.instance:
            return
        if owner is None:
            raise WrongProject(
                f"{self.deployment.where} exists and is not Trackbed's",
                "`invoke up --adopt` takes it, where it is meant for this; or choose another with KUBE_NAMESPACE",
            )
        raise self.deployment.belongs_to(owner)

    def adopt(self) -> bool:
        """Take one that is there: with its owner's id and data where it has one, else as it was given to us."""
        current = self.look()
        if current is None:
            return False
        notes = objects.notes(current)
        if owner := notes.get(objects.INSTANCE):
            self.project.state.instance = owner
            self.project.state.active.update(_active(notes.get(objects.ACTIVE, "")))
            self.rendering.forget()
            return True
        if any((one.get("status") or {}).get("phase") not in ENDED for one in self.kubectl.listed(RUNNING)):
            raise TrackbedError(
                f"{self.deployment.where} runs something else already",
                "choose an empty one with KUBE_NAMESPACE, or another name with --project=NAME",
            )
        self._apply(made=False, version=str(current["metadata"].get("resourceVersion", "")))
        return False

    def make(self) -> None:
        """It is there, says whose it is, and keeps the pointer to the active data. Raises WrongProject where somebody
        else was faster."""
        current = self.look()
        if current is None:
            made = self.kubectl.create(self._planned(made=True), "the namespace")
            current = None if made else self.look()
        if current:
            self._check_owner(current)
            if objects.notes(current).get(objects.ACTIVE) != self._pointer():
                self._apply(made=objects.MADE in objects.notes(current))
        self._is_ours = True
        if not self.deployment.target.cluster:
            target.keep(self.settings, self.deployment.target, self.rendering.cluster.identity)

    def _pointer(self) -> str:
        active = {key: self.project.state.active[key] for key in ("database", "prefix")}
        return json.dumps({**active, "store": self.deployment.object_store}, sort_keys=True)

    def _planned(self, made: bool, version: str = "") -> Object:
        """``version``: which one of it this is to follow, where another's change in between has to be seen."""
        thing = dict(self.rendering.namespace)
        instance = self.project.state.instance
        notes = {
            objects.INSTANCE: instance,
            objects.ACTIVE: self._pointer(),
            **({objects.MADE: "true"} if made else {}),
        }
        labels = {objects.INSTANCE: instance, "app.kubernetes.io/name": "trackbed"}
        # what an administrator made enforces what they chose
        given = objects.labels(thing) if made else {}
        only = {"resourceVersion": version} if version else {}
        name = thing["metadata"]["name"]
        return {**thing, "metadata": {"name": name, "labels": {**given, **labels}, "annotations": notes, **only}}

    def _apply(self, made: bool, version: str = "") -> None:
        planned = self._planned(made, version)
        try:
            self.kubectl.apply([planned], f"namespace {objects.name(planned)}")
        except TrackbedError:
            if made or self._may_change():
                raise
            self._keep_marks(objects.notes(planned))

    def _may_change(self) -> bool:
        """Whether this login may change the namespace itself; the role `admin` in it may not."""
        return not self.kubectl.lacking([Right("patch", "namespaces", name=self.deployment.target.namespace)])

    def _keep_marks(self, marks: Mapping[str, str]) -> None:
        """Keep them inside it, where its user may."""
        metadata = {"name": objects.MARKS, "namespace": self.deployment.target.namespace}
        thing = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(marks)}
        self.kubectl.apply([thing], f"configmap {objects.MARKS}")

    def remove(self) -> tuple[str, ...]:
        """Delete it, or only our marks where others made it or have something in it. Gives what stays, to tell."""
        current = self.look()
        notes = objects.notes(current) if current else {}
        lines: tuple[str, ...] = ()
        if notes.get(objects.INSTANCE) == self.project.state.instance:
            name = self.deployment.target.namespace
            others = self._others() if objects.MADE in notes else []
            if objects.MADE in notes and not others:
                self.kubectl.delete("namespace", [name], wait=SECONDS)
            else:
                self._unmark(objects.INSTANCE, objects.ACTIVE, objects.MADE)
            if others:
                several = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
                lines = (
                    f"{self.deployment.where} stays: {', '.join(others[:SHOWN])}{several} in it is not Trackbed's "
                    f"(`kubectl delete namespace {name} --context {self.deployment.target.context}` deletes all of it)",
                )
        self._forget()
        return lines

    def leave(self, claim: str) -> tuple[str, ...]:
        """Its data are elsewhere now, but for a claim with the user's files. Gives what stays, to tell."""
        self._unmark(objects.ACTIVE)
        self._forget()
        where = self.deployment.target
        return (
            f"the files of the notebook's workspace stay where they are, in volume claim {claim} in "
            f"{self.deployment.where} (`kubectl delete persistentvolumeclaim {claim} --namespace {where.namespace} "
            f"--context {where.context}` deletes them)",
        )

    def _forget(self) -> None:
        target.forget(self.settings)
        self._is_ours = False

    def _unmark(self, *keys: str) -> None:
        """Take marks away; the owner's is the last that goes."""
        name = self.deployment.target.namespace
        if kept := self.kubectl.find("configmap", objects.MARKS):
            self.kubectl.delete("configmap", [objects.MARKS] if objects.INSTANCE in keys else [])
            if objects.INSTANCE not in keys:
                self._keep_marks({key: value for key, value in (kept.get("data") or {}).items() if key not in keys})
            return
        marks = [f"{key}-" for key in keys]
        self.kubectl.ask(f"give back namespace {name}", "annotate", "namespace", name, *marks)
        if objects.INSTANCE in keys:
            self.kubectl.ask(f"give back namespace {name}", "label", "namespace", name, f"{objects.INSTANCE}-")

    def _others(self) -> list[str]:
        """What somebody put there beside the project's own, as KIND/NAME: deleting the namespace would delete it."""
        return [
            f"{objects.kind(one).lower()}/{objects.name(one)}"
            for one in self.kubectl.listed(OTHERS)
            if objects.labels(one).get(objects.INSTANCE) != self.project.state.instance
            and "deletionTimestamp" not in one["metadata"]
            and one.get("type") not in CLUSTERS_OWN
        ]


def _active(text: str) -> dict[str, str]:
    try:
        data = json.loads(text)
        return {key: str(data[key]) for key in ("database", "prefix", "store")}
    except (ValueError, KeyError, TypeError):
        return {}
