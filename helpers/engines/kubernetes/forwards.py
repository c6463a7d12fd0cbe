"""The ways from this machine to the services: port-forwards that a supervisord of the project keeps alive."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from helpers import process_table, safe_files, waiting
from helpers.engines import socket_folder
from helpers.engines.kubernetes import objects, refusals, specs
from helpers.engines.kubernetes.deployment import KubernetesComponent
from helpers.engines.kubernetes.forward_loop import NO_SOCKET
from helpers.engines.kubernetes.kubectl import Object
from helpers.engines.supervisor import Supervisor
from helpers.engines.supervisor_config import MARK, Program
from helpers.errors import NotListening, TrackbedError
from helpers.project.state import make_folder
from helpers.services import Address, Port, ProgressReporter, State
from helpers.suggestions import shown

LOOP = Path(__file__).with_name("forward_loop.py")
ATTENDED = Path(__file__).with_name("attended.py")
END_SECONDS = 10.0
TARGET = "FORWARD_TARGET"  # the pod that a forward leads to: another one, and supervisord starts it again
OPEN_SECONDS = 20.0  # until a way is there
FAILURES = 3  # one after the other, after which waiting alone does not help; a pod that is replaced takes some
LONGEST_SOCKET = "/supervisor.sock.12345678"  # while it is made
# what kubectl, and the program of a provider that logs it in, are told of their user
PASSED = (
    "HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
)
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PROVIDERS = ("AAD_", "ARM_", "AWS_", "AZURE_", "CLOUDSDK_", "GOOGLE_", "KUBE", "OCI_", "OS_")  # how theirs begin


@dataclass(frozen=True)
class Way:
    """How one port is: is there a way now, how many tries failed one after the other, what kubectl said last."""

    ready: bool = False
    failures: int = 0
    said: str = ""

    @property
    def works(self) -> bool:
        """Also between two pods."""
        return self.ready or self.failures < FAILURES


class Forwards(KubernetesComponent):
    """Those of the services that have a port for people and clients."""

    @cached_property
    def supervisor(self) -> Supervisor:
        return Supervisor(self._folder, self._run_folder, self._mark, self._is_ours)

    @property
    def _folder(self) -> Path:
        return self.deployment.folder / "forwards"

    @cached_property
    def _run_folder(self) -> Path:
        return socket_folder.choose(self._folder, LONGEST_SOCKET, os.geteuid() == 0)

    def _is_ours(self) -> bool:
        return all(safe_files.is_folder(path, os.geteuid()) for path in (self._folder, self._run_folder))

    @property
    def _mark(self) -> str:
        """What marks its processes: another engine's of the same project have the project's own id."""
        return f"{self.project.state.instance}-forwards"

    def _ports(self) -> dict[str, tuple[str, Port]]:
        """Each with its service, by the name of its program."""
        listed = ((name, port) for name in self.deployment.services for port in specs.ports(name, self.deployment))
        return {f"{name}-{port.name}": (name, port) for name, port in listed}

    def _targets(self) -> dict[str, str]:
        """The pod of each service that a way would lead to now. kubectl stays with the one it found, as that ends."""
        pods = self.kubectl.listed("pods", objects.OURS)
        chosen = {
            one: newest([pod for pod in pods if objects.labels(pod).get(objects.PART) == one]) for one in self.names()
        }
        return {service: str(pod["metadata"]["uid"]) for service, pod in chosen.items() if pod}

    def programs(self, targets: Mapping[str, str] | None = None) -> list[Program]:
        """One for each port, whose socket supervisord holds."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in (*PASSED, *PROXIES) or name.startswith(PROVIDERS)
        }
        result = []
        for name, (service, port) in self._ports().items():
            kubectl = self.kubectl.command("port-forward", "--address=127.0.0.1", f"service/{service}", f":{port.name}")
            command = (sys.executable, "-I", str(LOOP), str(self._report(name)), *kubectl)
            listens = (port.address, port.published)
            marked = {**environment, TARGET: (targets or {}).get(service, "")}
            result.append(Program(name, command, marked, "/", "TERM", 10, 0, listens=listens))
        return result

    def start(self, progress: ProgressReporter) -> None:
        """They run exactly so, and lead to the services; those that did stay. Raises TrackbedError."""
        progress.step("opening the services' ports on this machine")
        self._make_folders()
        known, running = list(self._ports()), self.supervisor.running()
        programs = self.programs(self._targets())
        if not running:
            self._end_orphans()
        anew = [
            one.name
            for one in programs
            if running and not (self._way(one.name).ready and self.supervisor.is_current(one))
        ]
        for name in anew:  # here, so that no report of theirs comes later; and not to sit out a pause before a next try
            self.supervisor.stop(name)
        for name in anew if running else known:
            self._report(name).unlink(missing_ok=True)
        self.supervisor.apply(programs, Path(sys.executable).with_name("supervisord"))
        for name in anew:
            self.supervisor.start(name)
        self._await(known)

    def _await(self, names: list[str]) -> None:
        def settled() -> bool:
            return all(self._way(name).ready for name in names) or self._failed(names) != ""

        waiting.until(settled, OPEN_SECONDS, 0.1)
        late = next((name for name in names if not self._way(name).ready), "")
        if not (name := self._failed(names) or late):
            return
        service, port = self._ports()[name]
        said = self._way(name).said or f"no way within {OPEN_SECONDS:.0f} s"
        if said == NO_SOCKET:
            raise TrackbedError(
                f"port {port.published} of this machine, {service}'s, is another program's",
                "`invoke doctor` shows whose; or choose another port, and type `invoke up` again",
            )
        doing = f"open a port of this machine to {service}"
        raise refusals.refusal(said, self.kubectl.context, self.kubectl.namespace, doing)

    def _failed(self, names: list[str]) -> str:
        return next((name for name in names if not self._way(name).works), "")

    def _make_folders(self) -> None:
        make_folder(self._folder / "logs", private=True)
        if self._run_folder != self._folder:
            if os.geteuid() == 0:
                safe_files.own_folder(self._run_folder.parent, 0o755)
            safe_files.own_folder(self._run_folder, 0o700)

    def stop(self) -> None:
        """End them all. The cluster is not asked."""
        if self.supervisor.running():
            self.supervisor.shutdown()
        self._end_orphans()
        if self._run_folder != self._folder:
            safe_files.remove(self._run_folder)

    def orphans(self) -> list[int]:
        """The processes that a supervisord that was killed has left, which hold the ports; kubectl among them."""
        return process_table.with_variable(MARK, self._mark, below=True)

    def _end_orphans(self) -> None:
        process_table.end(self.orphans(), END_SECONDS, {})

    def _report(self, program: str) -> Path:
        return self._folder / f"{program}.json"

    def _way(self, program: str) -> Way:
        """What its program wrote last; nothing failed yet before the first time."""
        try:
            data = json.loads(self._report(program).read_bytes())
            return Way(bool(data["ready"]), int(data["failures"]), shown(str(data["said"]), 400))
        except (OSError, ValueError, KeyError, TypeError):
            return Way()

    def problem(self, service: str) -> str:
        """What kubectl said last of a way to a service that does not work; "" where it said nothing."""
        ways = [self._way(name) for name, (owner, _) in self._ports().items() if owner == service]
        return next((way.said for way in ways if not way.works), "")

    def names(self) -> tuple[str, ...]:
        """The services that have ports."""
        return tuple(dict.fromkeys(service for service, _ in self._ports().values()))

    def held(self) -> frozenset[str]:
        """The services whose ports on this machine are ours, whether they lead anywhere or not."""
        states = self.supervisor.states()
        up = {name for name, process in states.items() if process.state in (State.RUNNING, State.STARTING)}
        lacking = {service for name, (service, _) in self._ports().items() if name not in up}
        return frozenset(self.names()) - lacking

    def running(self) -> frozenset[str]:
        """The services that have their way."""
        return self.held() - {service for name, (service, _) in self._ports().items() if not self._way(name).works}

    def are_current(self) -> bool:
        """Whether they all work as `start` would have them. A shell with other variables is no reason to begin anew."""
        return self.running() == set(self.names()) and all(
            self.supervisor.is_current(one, False) for one in self.programs()
        )

    @contextmanager
    def open(self, service: str, port: str) -> Iterator[Address]:
        """A way of this process alone, to the newest pod that is ready. Raises NotListening."""
        target = specs.target(service, port)
        if not target:
            raise NotListening(f"{service} publishes no port {port}")
        pod = newest(self.kubectl.listed("pods", f"--selector={objects.PART}={service}"))
        if pod is None:
            raise NotListening(f"{service} has no pod that runs in {self.deployment.where}", "`invoke up` starts it")
        words = ("port-forward", "--address=127.0.0.1", f"pod/{objects.name(pod)}", f":{target}")
        with subprocess.Popen(
            (sys.executable, "-I", str(ATTENDED), *self.kubectl.command(*words)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            assert process.stdin is not None
            try:
                yield Address("127.0.0.1", _port(process, service))
            finally:
                process.stdin.close()


def _port(process: subprocess.Popen[bytes], service: str) -> int:
    """The port that kubectl chose: it says "Forwarding from 127.0.0.1:PORT -> TARGET"."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], OPEN_SECONDS)
    line = os.read(process.stdout.fileno(), 4096).decode("utf-8", "replace") if ready else ""
    if not line.startswith("Forwarding from 127.0.0.1:"):
        raise NotListening(f"no way to {service}: kubectl opens no port", f"`invoke logs {service}` may show why")
    return int(line.removeprefix("Forwarding from 127.0.0.1:").partition(" ")[0])


def newest(pods: list[Object]) -> Object | None:
    """The youngest that is ready, else that runs; none that ends."""

    def rank(pod: Object) -> tuple[bool, str]:
        conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions") or ()}
        return conditions.get("Ready") == "True", str(pod["metadata"].get("creationTimestamp", ""))

    alive = [
        pod
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp") and (pod.get("status") or {}).get("phase") == "Running"
    ]
    return max(alive, key=rank, default=None)
