"""Bringing the services up: what happens meanwhile, when to give up, and why Compose could not start them."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import replace

from helpers import waiting
from helpers.engines import shared
from helpers.engines.base import Engine
from helpers.engines.docker.compose import LOOK_SECONDS, ComposeProject
from helpers.engines.docker.containers import SERVICE
from helpers.engines.docker.deployment import DockerComponent
from helpers.engines.docker.network_guard import NetworkGuard
from helpers.engines.docker.notebook_container import ENDED_FIRST, NotebookContainer
from helpers.engines.docker.postgres import Database
from helpers.engines.docker.workspace import Workspace
from helpers.engines.failures import failure, stop_at_failed
from helpers.errors import TrackbedError
from helpers.services import BUCKET, GATEWAY, MLFLOW, POSTGRES, ProgressReporter, ServiceStatus, StartReport, State


class Startup(DockerComponent):
    """Compose starts the services, and what is ours reacts to what it sees."""

    def __init__(
        self,
        engine: Engine,
        notebook: NotebookContainer,
        workspace: Workspace,
        compose: ComposeProject,
        database: Database,
        guard: NetworkGuard,
    ) -> None:
        super().__init__(compose.deployment)
        self.engine = engine
        self.notebook = notebook
        self.workspace = workspace
        self.compose = compose
        self.database = database
        self.guard = guard

    def start(self, progress: ProgressReporter) -> StartReport:
        """Everything that is not up as planned. Raises ServiceFailed."""
        statuses = self.engine.services()
        before = {s.name: s.identity for s in statuses if s.up}
        self.engine.check_foreign()
        for status in statuses:
            if status.state in ENDED_FIRST:
                progress.service(status.name, "stopping", f"it was {status.state}")
                self.api.stop(status.identity, 30)  # not to sit out the engine's pause before its next try
        self.workspace.make()  # its owner is who reads the notebook's secrets
        self.engine.plan_anew()
        progress.step("volumes and secrets")
        ready = self.database.check(statuses, progress)
        existed = self.engine.make_volumes()
        if self.deployment.notebook_only:
            progress.step("starting the notebook")
            self.api.create_network(self.deployment.frontend(), self.settings.project)
            self.notebook.start(progress)
        else:
            progress.step("starting the services")
            self.guard.put()  # before the first port is open; again when the networks are there
            self.free_ports()
            if existed and not ready:
                # nobody may be connected while the server's role is replaced
                self.engine.halt(MLFLOW, progress)
                self.bring_up(progress, only=POSTGRES)
            self.bring_up(progress)
        report = shared.report(before, self.engine.services())
        return replace(report, new_database=not existed and not self.deployment.notebook_only)

    def free_ports(self) -> None:
        """Take away what holds the ports of the other way to publish them: before PUBLIC was changed."""
        project = self.settings.project
        holder = (
            self.notebook.labels
            if self.deployment.is_public
            else [f"com.docker.compose.project={project}", f"{SERVICE}={GATEWAY}"]
        )
        for container in self.api.containers(holder):
            if container.ports or not self.deployment.is_public:
                self.api.stop(container.id, 10)
                self.api.remove(container.id)

    def bring_up(self, progress: ProgressReporter, only: str = "") -> None:
        """Compose starts the services, and meanwhile the notebook starts as soon as its network is there.

        ``only``: the database, whose roles have to be right before anything else starts.
        """
        watch = Watch(self.engine, [only] if only else self.deployment.services)
        notebook_started, roles_ready = bool(only), False
        with shared.interruptible(), closing(self.compose.up(self.engine.services, progress, only)) as snapshots:
            for now in snapshots:
                tell(now.statuses.values(), progress)
                # alone: Compose waits for a container that it may just be replacing
                database = now.statuses[POSTGRES]
                if not roles_ready and database.state is State.READY and (now.code == 0 or not only):
                    roles_ready = self.database.ensure_roles(database.identity, progress)
                if not notebook_started and (now.code == 0 or self.notebook.networks_exist()):
                    self.guard.put()
                    self.notebook.start(progress)
                    notebook_started = True
                if now.code is None:
                    watch.look(now.statuses)
        if now.code:
            explain(self.engine, now.output, watch.stale)
        if not roles_ready:
            self.await_database(watch, progress)
            self.database.ensure_roles("", progress)

    def await_database(self, watch: Watch, progress: ProgressReporter) -> None:
        """Nothing that Compose starts waits for it: it may still be making its cluster. Raises what `Watch` does."""

        def ready() -> bool:
            statuses = {status.name: status for status in self.engine.services()}
            tell(statuses.values(), progress)
            watch.look(statuses)
            return statuses[POSTGRES].state is State.READY

        waiting.until(ready, self.settings.ready_timeout, LOOK_SECONDS)


def tell(statuses: Iterable[ServiceStatus], progress: ProgressReporter) -> None:
    for status in statuses:
        if status.state is not State.MISSING:
            progress.service(status.name, str(status.state), status.reason[:80])


class Watch:
    """One `up` of the named services: what had failed before it does not count until it was begun again."""

    def __init__(self, engine: Engine, watched: Iterable[str]) -> None:
        self.engine = engine
        self.watched = set(watched) - {BUCKET}
        self.deadline = time.monotonic() + engine.settings.ready_timeout
        first = engine.services()
        self.stale = {s.name for s in first if s.failed}  # of an earlier attempt, until they were seen alive
        self.identities = {s.name: s.identity for s in first if s.up}
        self.failures: dict[str, int] = {}

    def look(self, statuses: Mapping[str, ServiceStatus]) -> None:
        """Raises ServiceFailed for a service that will not come up, TrackbedError after the time that there is."""
        self.stale -= {name for name in self.stale if not statuses[name].failed}
        # Compose stops what it replaces: an end that says nothing about the one that comes
        replaced = {
            name for name, s in statuses.items() if s.state is State.EXITED and s.identity == self.identities.get(name)
        }
        stop_at_failed(self.engine, self.watched - self.stale - replaced, self.failures, statuses.values())
        if time.monotonic() > self.deadline:
            missing = [f"{s.name} ({s.state})" for s in statuses.values() if not s.up]
            raise TrackbedError(
                f"not up after {self.engine.settings.ready_timeout} s: {', '.join(missing)}",
                "`invoke logs SERVICE` shows why; READY_TIMEOUT raises the limit",
            )


def explain(engine: Engine, output: list[str], stale: Collection[str]) -> None:
    """Raise the reason why `compose up` failed: the service that failed, else Compose's own last words.

    ``stale``: those that had failed before and were not begun again; they come after Compose's own words.
    """
    for status in engine.services():
        if status.failed and status.name not in stale:
            raise failure(engine, status)
    text = " ".join(output[-3:])
    # a service that is restarting may look alive at the moment of asking: Compose's own word counts
    for status in engine.services():
        if re.search(rf"container {engine.settings.project}-{status.name}-1 (is unhealthy|exited)", text):
            raise failure(engine, status)
    for status in engine.services():
        if status.failed:
            raise failure(engine, status)
    if match := re.search(r"Bind for \S*?:(\d+) failed|address already in use", text):
        raise TrackbedError(f"a port is taken: {match.group(0)}", "`invoke doctor` says by whom")
    if "incorrect label" in text:
        raise TrackbedError(
            f"a network of this name was made by something else: {output[-1]}",
            "`docker network rm` it, or choose another name with --project=NAME",
        )
    raise TrackbedError(
        f"docker compose up failed: {output[-1] if output else 'no output'}", "see `invoke doctor`", tuple(output[-10:])
    )
