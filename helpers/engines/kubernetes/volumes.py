"""Claims of volumes that are there, and settings that say otherwise: grown where the class can, else refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from helpers.engines.kubernetes import objects
from helpers.engines.kubernetes.deployment import KubernetesComponent
from helpers.engines.kubernetes.objects import Object
from helpers.errors import SettingError, TrackbedError
from helpers.services import ProgressReporter

SETTINGS = {
    "data-postgres-0": "DATABASE_VOLUME_SIZE",
    "data-store-0": "STORE_VOLUME_SIZE",
    "work-jupyter-0": "WORKSPACE_VOLUME_SIZE",
}


class Volumes(KubernetesComponent):
    def settle(self, things: Iterable[Object], progress: ProgressReporter) -> None:
        """The claims are as large as planned, and each StatefulSet may be applied. Raises TrackbedError.

        A StatefulSet's claims cannot be changed: it is deleted without its pods, which the next one takes over.
        """
        planned = [one for one in things if objects.kind(one) == "StatefulSet"]
        claims = {objects.name(one): one for one in self.kubectl.listed("persistentvolumeclaims")}
        before = {objects.name(one): one for one in self.kubectl.listed("statefulsets")}
        grown = []
        for one in planned:
            for name, asked in _claims(one):
                if name in claims and self._must_grow(name, asked, claims[name]):
                    grown.append((name, asked))
        for name, asked in grown:
            self._grow(name, _size(asked), progress)
        for one in planned:
            name = objects.name(one)
            if name in before and _differ(one, before[name]):
                self.kubectl.ask(f"renew statefulset {name}", "delete", "statefulset", name, "--cascade=orphan")

    def _must_grow(self, name: str, asked: Object, old: Object) -> bool:
        """Raises SettingError for what no cluster can do to a volume that is there."""
        chosen, is_class = asked["spec"].get("storageClassName"), old["spec"].get("storageClassName")
        where = f"volume claim {name} in {self.deployment.where}"
        back = "for another volume: `invoke backup`, `invoke down --delete-data`, then `invoke restore`"
        if chosen and is_class and chosen != is_class:
            raise SettingError(
                f"STORAGE_CLASS={chosen} (from {self.settings.origin('STORAGE_CLASS')}): {where} is of class "
                f"{is_class}, which cannot be changed.",
                f"STORAGE_CLASS={is_class} goes on with it; {back}",
            )
        size, is_size = objects.number(_size(asked)), objects.number(_size(old))
        if size < is_size and (setting := SETTINGS.get(name)):
            raise SettingError(
                f"{setting} (from {self.settings.origin(setting)}) is {_size(asked)}: {where} has {_size(old)}, and "
                "no volume shrinks.",
                f"set {setting} to what it has; {back}",
            )
        return size > is_size

    def _grow(self, name: str, size: str, progress: ProgressReporter) -> None:
        progress.step(f"growing volume claim {name} to {size}")
        patch = f'{{"spec":{{"resources":{{"requests":{{"storage":"{size}"}}}}}}}}'
        done = self.kubectl.run("patch", "persistentvolumeclaim", name, "--type=merge", f"--patch={patch}")
        if done.code and "resize" in done.stderr:
            raise TrackbedError(
                f"volume claim {name} in {self.deployment.where} cannot grow to {size}: its storage class does not let "
                "volumes grow",
                f"leave {SETTINGS[name]} as it was",
            )
        if done.code:
            raise self.kubectl.refusal(done, f"grow volume claim {name}")


def _claims(stateful_set: Object) -> Iterator[tuple[str, Object]]:
    """The claims of its only pod, by name."""
    for one in stateful_set["spec"].get("volumeClaimTemplates") or ():
        yield f"{objects.name(one)}-{objects.name(stateful_set)}-0", one


def _size(claim: Object) -> str:
    return str(claim["spec"]["resources"]["requests"]["storage"])


def _differ(planned: Object, old: Object) -> bool:
    def known(one: Object) -> list[tuple[str, float, str]]:
        return [
            (name, objects.number(_size(claim)), str(claim["spec"].get("storageClassName") or ""))
            for name, claim in _claims(one)
        ]

    return known(planned) != known(old)
