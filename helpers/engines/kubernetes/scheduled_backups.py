"""A schedule of backups as a CronJob: what its pods are given, and what is told of their runs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from helpers.engines.kubernetes import backup_plan, objects, pods, secrets
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.kubectl import Object
from helpers.engines.kubernetes.rendering import Rendering
from helpers.leases import last_backup
from helpers.project import backup_schedule, users
from helpers.project.backup_runs import TOLD, Result, Runs
from helpers.project.credentials import JUPYTER_TOKEN
from helpers.services import State

NAME = "backup"  # of the CronJob, of its pods' container, and their component
TO_NOTEBOOK = "backup-to-jupyter"
KINDS = "jobs,pods"
MINUTE = 60.0
STUCK = 10 * MINUTE  # seconds after which a pod that has not begun is told of


class ScheduledBackups(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, rendering: Rendering) -> None:
        super().__init__(deployment)
        self.rendering = rendering

    def apply(self) -> None:
        """Have the schedule run from now on."""
        self.rendering.forget()
        self.kubectl.apply(self.secrets(), "the keys of the backups")
        read = [one for one in self.rendering.things if _is_ours(one) or objects.name(one).startswith("mlflow-")]
        self.kubectl.apply(read, "the schedule of backups")

    def end(self) -> None:
        """See that it runs no more; a backup that is being made ends. Its keys go too."""
        kinds = "cronjobs,networkpolicies,configmaps,secrets"
        words = (f"{self.deployment.selector},{objects.PART}={NAME}", "--wait=false")
        self.kubectl.ask("end the schedule of backups", "delete", "cronjobs,secrets", *words)
        left = [one for one in self.kubectl.listed(kinds, self.deployment.selector) if _is_ours(one)]
        for one in left:
            self.kubectl.delete(objects.kind(one).lower(), [objects.name(one)])
        self.rendering.forget()

    def secrets(self) -> list[Object]:
        """What the pods are given, where there is a schedule: for whom nothing else in the namespace may read it."""
        if not self.deployment.scheduled:
            return []
        files = {backup_plan.PLAN: json.dumps(backup_plan.plan(self.deployment, self.rendering.images.references()))}
        logins = users.path(self.deployment.settings)
        if logins.exists():
            files[users.FILE] = logins.read_text(encoding="utf-8")
        if self.deployment.certificates:
            files[backup_plan.CERTIFICATES] = self.deployment.certificates
        if backup_plan.asks_the_notebook(self.deployment):
            files[backup_plan.TOKEN] = self.deployment.project.credentials()[JUPYTER_TOKEN]
        content = {path: base64.b64encode(text.encode()).decode() for path, text in files.items()}
        return [secrets.secret(self.deployment, secrets.name(NAME), NAME, content)]

    def runs(self) -> Runs | None:
        """How it went; None where the schedule is not this engine's."""
        if not (schedule := self.deployment.scheduled):
            return None
        installed = self.kubectl.find("cronjob", NAME) is not None
        listed = self.kubectl.listed(KINDS, f"{self.deployment.selector},{objects.PART}={NAME}")
        seen = runs(listed, installed, time.time(), schedule.since)
        if self.deployment.last_place:
            running = next((one for one in listed if objects.kind(one) == "Pod" and "running" in _container(one)), None)
            seen = replace(seen, last=(running and self._told(objects.name(running))) or seen.last)
        return seen

    def _told(self, pod: str) -> dict[str, Any]:
        """What a pod that runs tells of the last backup of a lease; {} where that is nothing."""
        done = self.kubectl.run("logs", pod, f"--container={NAME}", "--tail=200", "--request-timeout=20s")
        for line in reversed(done.stdout.splitlines()):
            with suppress(KeyError, TypeError, ValueError, AttributeError):
                if line.startswith(TOLD):
                    return Result.parse(json.loads(line.removeprefix(TOLD))).last
        return {}

    def remember(self) -> None:
        """Keep what is known of the last good backup, and of the last one of a lease, which goes with the Jobs."""
        folder = self.deployment.settings.folder
        if (seen := self.runs()) and seen.installed:
            good = seen.result.good or backup_schedule.load_result(folder).good
            Result("skipped", time.time(), "", good).save(folder)
            last_backup.heard(folder, seen, backup_plan.lease_end(self.deployment))


def _is_ours(thing: Object) -> bool:
    """Whether an object is one of the schedule's: kustomize puts a hash behind the names of ConfigMaps."""
    return objects.name(thing) in (NAME, TO_NOTEBOOK) or objects.name(thing).startswith(
        (f"{NAME}-code-", f"{NAME}-tools-")
    )


def runs(listed: list[Object], installed: bool, now: float, since: float = 0.0) -> Runs:
    """From the Jobs and the pods of the schedule: the newest run that has ended, and whether one is under way.

    ``since``: when the schedule was made; what ended of an earlier one tells nothing of it.
    """
    jobs = sorted((one for one in listed if objects.kind(one) == "Job"), key=_made, reverse=True)
    results: list[Result] = []
    under_way = False
    for job in jobs:
        own = [one for one in listed if objects.kind(one) == "Pod" and _owner(one) == objects.name(job)]
        pod = max(own, key=_made, default=None)
        result = _result(job, pod, now)
        if result is None:
            under_way = under_way or "running" in _container(pod)
        elif now - pods.age(_made(job)) > since - 2:  # the API has whole seconds
            results.append(result)
    if not results:
        return Runs(Result(), installed, under_way)
    told = next((one.last for one in results if one.last), {})
    last = results[0]
    if last.state == "done" and last.good and not last.problem:  # a look that found nothing due says nothing else
        # a look reckons the end of a backup from its manifest, which the run that made it does not
        same = (one.problem for one in results if one.good and one.good.backup == last.good.backup and one.problem)
        last = Result(last.state, last.started, next(same, ""), last.good)
    good = last.good or next((one.good for one in results if one.good), None)
    return Runs(Result(last.state, last.started, last.problem, good), installed, under_way, told)


def _result(job: Object, pod: Object | None, now: float) -> Result | None:
    """How a run ended; None for one that is under way."""
    begun = now - pods.age(_made(job))
    try:
        return Result.parse(json.loads(_container(pod).get("terminated", {}).get("message", "")))
    except (KeyError, TypeError, ValueError):
        pass  # it was ended before it could tell
    conditions = (job.get("status") or {}).get("conditions") or ()
    failed = next((one for one in conditions if one["type"] == "Failed" and one["status"] == "True"), None)
    seen = pods.view(pod, NAME) if pod else None
    if failed:
        ended = seen is not None and seen.state in (State.EXITED, State.RESTARTING)
        why = (seen.reason if seen and ended else "") or failed.get("message", "")
        return Result("failed", begun, str(why or "its pod was ended"))
    if seen and seen.reason and now - begun > STUCK and "running" not in _container(pod):
        return Result("failed", begun, f"its pod does not begin: {seen.reason}")
    return None


def _container(pod: Object | None) -> Mapping[str, Any]:
    """The state of a pod's container that makes the backup."""
    listed = ((pod or {}).get("status") or {}).get("containerStatuses") or ()
    return next((one.get("state") or {} for one in listed if one["name"] == NAME), {})


def _made(thing: Object) -> str:
    return str(thing["metadata"].get("creationTimestamp", ""))


def _owner(pod: Object) -> str:
    return next((str(one["name"]) for one in pod["metadata"].get("ownerReferences") or () if one["kind"] == "Job"), "")
