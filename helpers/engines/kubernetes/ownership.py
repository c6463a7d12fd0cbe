"""The project's namespace: whose it is, making it, and what it remembers of a state folder that was lost."""

from __future__ import annotations

import json

from helpers.engines.kubernetes import objects, target
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.kubectl import Object
from helpers.engines.kubernetes.rendering import Rendering
from helpers.errors import TrackbedError

SECONDS = 120.0  # for the namespace to go
SHOWN = 5  # names of what others have in it
OTHERS = "persistentvolumeclaims,statefulsets,deployments,daemonsets,cronjobs,jobs,pods,secrets"
CLUSTERS_OWN = ("kubernetes.io/service-account-token", "kubernetes.io/dockercfg")  # Secrets that nobody made


class Namespace(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, rendering: Rendering) -> None:
        super().__init__(deployment)
        self.rendering = rendering

    def look(self) -> Object | None:
        """As it is now; None where it was not made."""
        return self.kubectl.find("namespace", self.deployment.target.namespace)

    def check(self) -> None:
        """Refuse one that Trackbed did not make, or another project's. Raises TrackbedError."""
        found = self.look()
        if found is None:
            return
        if (found.get("status") or {}).get("phase") == "Terminating":
            raise TrackbedError(
                f"{self.deployment.where} is being deleted", "type the same command again when it is gone"
            )
        owner = objects.notes(found).get(objects.INSTANCE)
        instance = self.project.state.instance
        if owner == instance:
            return
        if owner is None:
            raise TrackbedError(
                f"{self.deployment.where} exists and is not Trackbed's",
                "`invoke up --adopt` takes it, where it is meant for this; or choose another with KUBE_NAMESPACE",
            )
        raise TrackbedError(
            f"{self.deployment.where} belongs to another Trackbed project (instance {owner[:8]}, this one is "
            f"{instance[:8]})",
            "if it is yours and its state folder was lost: `invoke up --adopt`; otherwise choose another name with "
            "--project=NAME",
        )

    def adopt(self) -> bool:
        """Take one that is there: with its owner's id and data where it has one, else as it was given to us."""
        found = self.look()
        if found is None:
            return False
        notes = objects.notes(found)
        if owner := notes.get(objects.INSTANCE):
            self.project.state.instance = owner
            self.project.state.active.update(_active(notes.get(objects.ACTIVE, "")))
            self.rendering.forget()
            return True
        if self.kubectl.listed("statefulsets,deployments"):
            raise TrackbedError(
                f"{self.deployment.where} runs something else already",
                "choose an empty one with KUBE_NAMESPACE, or another name with --project=NAME",
            )
        self._apply(made=False)
        return False

    def make(self) -> None:
        """It is there, says whose it is, and keeps the pointer to the active data."""
        target.keep(self.settings, self.deployment.target)
        found = self.look()
        notes = objects.notes(found) if found else {}
        if notes.get(objects.INSTANCE) == self.project.state.instance and notes.get(objects.ACTIVE) == self._pointer():
            return
        self._apply(made=found is None or objects.MADE in notes)

    def _pointer(self) -> str:
        active = {key: self.project.state.active[key] for key in ("database", "prefix")}
        return json.dumps({**active, "store": self.deployment.object_store}, sort_keys=True)

    def _apply(self, made: bool) -> None:
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
        thing["metadata"] = {"name": thing["metadata"]["name"], "labels": {**given, **labels}, "annotations": notes}
        self.kubectl.apply([thing], f"namespace {self.deployment.target.namespace}")

    def remove(self) -> tuple[str, ...]:
        """Delete it, or only our marks where others made it or have something in it. Gives what stays, to tell."""
        found = self.look()
        notes = objects.notes(found) if found else {}
        told: tuple[str, ...] = ()
        if notes.get(objects.INSTANCE) == self.project.state.instance:
            name = self.deployment.target.namespace
            others = self._others() if objects.MADE in notes else []
            if objects.MADE in notes and not others:
                self.kubectl.delete("namespace", [name], wait=SECONDS)
            else:
                self._unmark(objects.INSTANCE, objects.ACTIVE, objects.MADE)
                self.kubectl.ask(f"give back namespace {name}", "label", "namespace", name, f"{objects.INSTANCE}-")
            if others:
                several = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
                told = (
                    f"{self.deployment.where} stays: {', '.join(others[:SHOWN])}{several} in it is not Trackbed's "
                    f"(`kubectl delete namespace {name} --context {self.deployment.target.context}` deletes all of it)",
                )
        target.forget(self.settings)
        return told

    def leave(self, claim: str) -> tuple[str, ...]:
        """Its data are elsewhere now, but for a claim with the user's files. Gives what stays, to tell."""
        self._unmark(objects.ACTIVE)
        target.forget(self.settings)
        where = self.deployment.target
        return (
            f"the files of the notebook's workspace stay where they are, in volume claim {claim} in "
            f"{self.deployment.where} (`kubectl delete persistentvolumeclaim {claim} --namespace {where.namespace} "
            f"--context {where.context}` deletes them)",
        )

    def _unmark(self, *keys: str) -> None:
        name = self.deployment.target.namespace
        marks = [f"{key}-" for key in keys]
        self.kubectl.ask(f"give back namespace {name}", "annotate", "namespace", name, *marks)

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
