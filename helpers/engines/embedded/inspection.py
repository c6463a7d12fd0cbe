"""Looking at the services: their state, whether they answer, and whether what listens on their ports is theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from helpers import addresses, database_settings, process_table, shell_words, waiting
from helpers.engines.embedded import launch
from helpers.engines.embedded.accounts import ROLE_OF
from helpers.engines.embedded.deployment import EmbeddedComponent, EmbeddedDeployment
from helpers.engines.embedded.processes import Processes
from helpers.engines.embedded.service_commands import ServiceCommands
from helpers.engines.embedded.specs import GPU_MARK
from helpers.engines.supervisor import Process
from helpers.engines.supervisor_config import MARK
from helpers.errors import NotListening, PortTaken, TrackbedError
from helpers.http_request import SEARCH, ask
from helpers.services import (
    JUPYTER,
    MLFLOW,
    POSTGRES,
    TITLES,
    Address,
    Details,
    Hide,
    Plan,
    Port,
    ServiceSpec,
    ServiceStatus,
    State,
)
from helpers.suggestions import shown

ANSWER_SECONDS = 5.0  # in which a service that is well answers
LOOK_SECONDS = 0.06  # at the kernel's list of sockets: a row can be missed while others come and go


class Inspection(EmbeddedComponent):
    def __init__(self, deployment: EmbeddedDeployment, processes: Processes, commands: ServiceCommands) -> None:
        super().__init__(deployment)
        self.processes, self.commands = processes, commands

    def statuses(self, detail: bool) -> tuple[ServiceStatus, ...]:
        running = self.processes.supervisor.states()
        if not running and (self.processes.orphans() or self._notebook_listens()):  # the ports are ours then
            reason = self._why_lost()
            return tuple(
                ServiceStatus(name, State.UNHEALTHY, reason, ports=self.deployment.ports(name))
                for name in self.deployment.services
            )
        # not from the plan: looking and stopping go on when a GPU has gone
        return tuple(self._status(name, running.get(name), detail) for name in self.deployment.services)

    def _notebook_listens(self) -> bool:
        """Whether the account of root's notebook holds a port of ours. `start` ends all of it, also what is not marked.

        The kernel's word: a process can keep its number and its environment from root in a container.
        """
        uid = self.deployment.uid(JUPYTER)
        if not self.layout.as_root or uid <= 0:
            return False
        try:
            tables = _sockets()
        except OSError:
            return False  # not Linux
        ports = [port.published for service in self.deployment.services for port in self.deployment.ports(service)]
        return any(uid in addresses.listening_uids(tables, port) for port in ports)

    def _why_lost(self) -> str:
        if self.layout.earlier:
            return "an earlier version started it; `invoke up` takes it over"
        verb = "does not answer" if self.processes.supervisor.hung else "is gone"
        return f"its supervisor {verb}; `invoke up` repairs it"

    def _status(self, name: str, process: Process | None, detail: bool) -> ServiceStatus:
        if process is None:
            return ServiceStatus(name, State.MISSING)
        state, pid, ports = process.state, process.pid, self.deployment.ports(name)
        if state in (State.RUNNING, State.STARTING):
            state = State.READY if self._answers(name) else State.STARTING
        silent = "it does not answer" if detail and state is State.STARTING else ""
        return ServiceStatus(
            name,
            state,
            process.reason or silent,
            process.exit_code if not pid else None,
            ports=self._own(name, ports) if pid else self._held(ports),
            memory=process_table.memory(pid) if detail and pid else 0,
            since=process.since,
            identity=f"{pid}@{process.started}",
            # the notebook may have rewritten it
            accelerator=shown(process_table.variable(pid, GPU_MARK)) if name == JUPYTER and pid else "",
        )

    def details(self, service: str, plan: Callable[[], Plan], hide: Hide) -> Details:
        """From supervisord's own configuration, not from the process, which may write into its words what it likes."""
        self.layout.check()
        found = self.processes.supervisor.applied(service) if self.processes.supervisor.running() else None
        if found is None:
            spec = replace(hide(plan().service(service)), user=self._account(service))
            return Details(spec, planned=True, lines=self._by_hand(spec))
        command, environment, folder = found
        user = self._account(service)
        if launch.PREFIX in "".join(environment):  # what takes on the service's account: account, groups, folder
            place = next(n for n, word in enumerate(command) if word.endswith("launch.py")) + 1
            user, _, folder, *words = command[place:]
            command = tuple(words)
            environment = {name.removeprefix(launch.PREFIX): value for name, value in environment.items()}
        made = ServiceSpec(
            service,
            TITLES[service],
            command=command,
            environment=environment,
            ports=self.deployment.ports(service),
            user=user,
            working_dir=folder,
        )
        spec = hide(made)
        return Details(spec, lines=(*self._by_hand(spec), *self._looks(service)))

    def _account(self, service: str) -> str:
        return self.layout.accounts.name(ROLE_OF[service])

    def _by_hand(self, spec: ServiceSpec) -> tuple[tuple[str, str], ...]:
        """The command that runs. Its variables stand beside it: a shell of the user's has others."""
        switch = f"sudo -u {spec.user} " if self.layout.as_root else ""
        folder, command = shell_words.line([spec.working_dir]), shell_words.line(spec.command)
        return (("the command that runs", f"cd {folder} && {switch}{command}"),)

    def _looks(self, service: str) -> tuple[tuple[str, str], ...]:
        if not (pid := self.processes.pid(service)):
            return ()
        log = shell_words.line([str(self.folder / "logs" / f"{service}.log")])
        return (("to look at it", f"ps -o user,pid,etime,args -p {pid}"), ("to look at it", f"tail -f {log}"))

    def _own(self, service: str, ports: tuple[Port, ...]) -> tuple[Port, ...]:
        """Those of a service that runs, but for what another program took before it."""

        def strange(port: Port) -> bool:
            try:
                return bool(self._stranger(service, port))
            except NotListening:
                return False

        return tuple(port for port in ports if not strange(port))

    def _held(self, ports: tuple[Port, ...]) -> tuple[Port, ...]:
        """Those that the workers of a killed server still hold; its next start ends them."""
        instance, uids = self.project.state.instance, self.layout.uids()
        holders = ((port, addresses.holder(port.published).pid) for port in ports)
        return tuple(port for port, pid in holders if pid and process_table.variable(pid, MARK, uids) == instance)

    def _answers(self, service: str) -> bool:
        """The quick look that a health check would take."""
        if service == POSTGRES:
            active = self.project.state.active["database"]
            return self.commands.psql(database_settings.USER, active, "SELECT 1", ANSWER_SECONDS).code == 0
        path = SEARCH if service == MLFLOW else "/api"  # /health is 200 without a database
        token = self.project.access_token() if service == MLFLOW else ""
        try:
            with self.open(service, "http") as address:
                return ask(address.url + path, timeout=3, token=token).ok
        except NotListening:
            return False

    @contextmanager
    def open(self, service: str, port: str) -> Iterator[Address]:
        """The address of a port that the service itself holds. Raises NotListening."""
        for candidate in self.deployment.ports(service):
            if candidate.name == port:
                self._check_listener(service, candidate)
                yield Address(candidate.address, candidate.published)
                return
        raise TrackbedError(f"{service} publishes no port {port}")

    def _check_listener(self, service: str, port: Port) -> None:
        """What listens on a service's port is the service. Any program may take one that is free, if only for a moment:
        one of another account would be sent the tokens, and another project of this one the runs. Raises NotListening.
        """
        if who := self._stranger(service, port):
            raise PortTaken(
                f"port {port.published} is held by {who}, not by {service}",
                "`invoke doctor` names that program, and a free port with its flag",
            )

    def _stranger(self, service: str, port: Port) -> str:
        """Who else listens on a service's port; "" for the service. Raises NotListening where nothing does."""
        # the supervisor opens MLflow's socket, and holds it while MLflow is down
        trusted = {self.deployment.uid(service), os.geteuid()}

        def listening() -> dict[int, int]:
            return addresses.listeners(_sockets(), port.address, port.published)

        try:
            result = listening() or waiting.until(listening, LOOK_SECONDS, 0.02)
        except OSError:
            return ""  # not Linux
        if not result:
            raise NotListening(f"nothing listens on port {port.published}")
        if strangers := set(result.values()) - trusted:
            return f"a program of uid {min(strangers)}"
        return "" if self._holds(service, result) else "another program"

    def _holds(self, service: str, inodes: Collection[int]) -> bool:
        """Whether the supervisor or the service has all these sockets open. Where that cannot be seen, as root without
        CAP_SYS_PTRACE, the uid has to do: root's services have accounts of their own."""
        left = set(inodes)
        for pid in (self.processes.supervisor.pid, self.processes.pid(service)):
            sockets = process_table.sockets(pid) if pid else frozenset()
            left -= left if sockets is None else sockets
            if not left:
                return True
        return False


def _sockets() -> str:
    """The kernel's list of TCP sockets. Raises OSError where there is none."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return "".join(path.read_text() for path in tables if path == tables[0] or path.exists())
