"""Looking at the services in the cluster: their state with the reason, and their logs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from helpers import shell_words
from helpers.engines.kubernetes import memory, objects, pending, pods, specs
from helpers.engines.kubernetes.cluster import Cluster
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.forwards import Forwards
from helpers.engines.kubernetes.kubectl import Object
from helpers.errors import TrackbedError
from helpers.services import Details, Hide, Plan, ServiceStatus, State

SHOWN = "statefulsets.apps,deployments.apps,jobs.batch,services,configmaps,persistentvolumeclaims"
KINDS = "statefulsets.apps,deployments.apps,jobs.batch,pods"
PART = {"store-sync": "store"}  # the component whose pods a service is a container of
NO_WAY = "this machine has no way to it"
NOT_YET = ("PodInitializing", "ContainerCreating", "is waiting to start")


class Inspection(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, cluster: Cluster, forwards: Forwards) -> None:
        super().__init__(deployment)
        self.cluster, self.forwards = cluster, forwards

    def things(self) -> list[Object]:
        """The workloads and the pods of the project, as they are now."""
        return self.kubectl.listed(KINDS, objects.OURS)

    def details(self, service: str, plan: Callable[[], Plan], hide: Hide) -> Details:
        """From the objects that the cluster has. Secrets are not read: only their names are in a pod's volumes."""
        things = self.kubectl.listed(SHOWN, objects.OURS)
        try:
            spec, planned = specs.service_spec(service, things, self.deployment), False
        except KeyError:
            return Details(hide(plan().service(service)), planned=True)
        part = PART.get(service, service)
        own = [one for one in things if objects.labels(one).get(objects.PART) == part]
        named = [f"{objects.kind(one).lower()}/{objects.name(one)}" for one in own if objects.kind(one) != "Pod"]
        workload = objects.WORKLOADS[service]
        log = (f"{workload.kind.lower()}/{workload.name}", "--container", workload.container, "--follow")
        looks = (("get", *named), ("describe", named[0]), ("logs", *log)) if named else ()
        lines = tuple(("to look at it", shell_words.line(self.kubectl.command(*words))) for words in looks)
        return Details(hide(spec), planned, (*(("objects", name) for name in named), *lines))

    def statuses(self, detail: bool = False) -> tuple[ServiceStatus, ...]:
        """The state of every service, in the order of the plan."""
        things = self.things()
        if detail and self.project.state.existed:
            self._refuse_others(things)
        reachable = self.forwards.running()
        used = memory.look(self.kubectl, (one for one in things if objects.kind(one) == "Pod")) if detail else {}
        statuses = tuple(self._status(name, things, reachable, used) for name in self.deployment.services)
        if first := next((one for one in statuses if one.reason.startswith(NO_WAY)), None):  # it opens all of them
            explained = replace(first, reason=f"{first.reason}: `invoke up` opens it")
            statuses = tuple(explained if one is first else one for one in statuses)
        held = self.forwards.held()
        if (
            not held and self.forwards.orphans()
        ):  # what lost its supervisord holds the ports, which are ours all the same
            held = frozenset(self.deployment.services)
        return tuple(
            replace(one, ports=specs.ports(one.name, self.deployment) if one.name in held else ()) for one in statuses
        )

    def _refuse_others(self, things: Iterable[Object]) -> None:
        """Raise WrongProject where another project's services are in the place of this one's."""
        owners = {objects.labels(one).get(objects.INSTANCE, "") for one in things} - {""}
        if owners and self.project.state.instance not in owners:
            raise self.deployment.belongs_to(min(owners))

    def _status(self, name: str, things: list[Object], reachable: frozenset[str], used: memory.Used) -> ServiceStatus:
        workload = objects.WORKLOADS[name]
        own = pods_of(name, things)
        result = pods.status(name, workload, objects.find(things, workload.kind, workload.name), own)
        if result.state is State.STARTING:
            why, fix = self.stuck(name, own)
            if not why and workload.kind == "StatefulSet":
                why, fix = pending.held_by_node(own, self.cluster.nodes, self.deployment.target.context)
            result = replace(result, reason="; ".join(filter(None, (why, fix)))) if why else result
        if result.up and name not in reachable and specs.ports(name, self.deployment):
            why = f" ({said})" if (said := self.forwards.problem(name)) else ""
            result = replace(result, reason=f"{NO_WAY}{why}")
        amount = sum(used.get((objects.name(pod), workload.container), 0) for pod in own)
        return replace(result, memory=amount if result.up else 0)

    def stuck(self, name: str, own: list[Object]) -> tuple[str, str]:
        """Why a service that starts will not come up by waiting alone, and what to do; ("", "") where nothing shows."""
        context = self.deployment.target.context
        for pod in own:
            if pending.message(pod):
                return pending.explain(pod, self.cluster.nodes, self.cluster.pods(), context)
        if own:
            return self._unattached(own)
        events = self.kubectl.listed("events", "--field-selector=reason=FailedCreate")
        if why := pending.refused(events, objects.WORKLOADS[name].name):
            show = f"`kubectl get events -n {self.deployment.target.namespace} --context {context}` shows more"
            return f"the cluster refuses its pod: {why}", show
        return "", ""

    def _unattached(self, own: list[Object]) -> tuple[str, str]:
        """Why pods that have a node do not begin there, as far as a volume keeps them from it."""
        context = self.deployment.target.context
        for pod in own:
            claims = [one for one in (pod.get("spec") or {}).get("volumes") or () if "persistentVolumeClaim" in one]
            if claims and (pod.get("status") or {}).get("phase") == "Pending":
                events = self.kubectl.listed("events", f"--field-selector=involvedObject.name={objects.name(pod)}")
                if attachment := pending.unattached(pod, events, own, context):
                    return attachment
        return "", ""

    def logs(self, service: str, tail: int, follow: bool) -> Iterator[str]:
        """The lines of every pod of a service, oldest first within each; with several pods each line names its own."""
        if service not in self.deployment.services:
            raise TrackbedError(f"there is no service {service}", f"one of {', '.join(self.deployment.services)}")
        workload = objects.WORKLOADS[service]
        words = ["logs", f"--tail={tail}", *(["--follow"] if follow else []), "--max-log-requests=32"]
        words.append(f"--selector={objects.PART}={PART.get(service, service)}")
        several = workload.kind == "Deployment" and self.settings.mlflow_replicas > 1
        words += ["--prefix"] if several else []
        if follow:
            yield from _lines(self.kubectl.command(*words, f"--container={workload.container}"))
            return
        done = self.kubectl.run(*words, f"--container={workload.container}")
        if done.code and any(word in done.stderr for word in NOT_YET):
            done = self.kubectl.run(*words, "--all-containers")  # one that comes before it says why it waits
        yield from (done.stdout or done.stderr).splitlines()


def pods_of(service: str, things: list[Object]) -> list[Object]:
    """The pods of a service among other objects."""
    part = PART.get(service, service)
    return [one for one in things if objects.kind(one) == "Pod" and objects.labels(one).get(objects.PART) == part]


def _lines(command: list[str]) -> Iterator[str]:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield from (line.rstrip("\n") for line in process.stdout)
        finally:
            process.terminate()
