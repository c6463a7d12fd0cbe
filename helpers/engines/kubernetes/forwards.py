"""The ways from this machine to the services: port-forwards that a supervisord of the project keeps alive."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from helpers import process_table
from helpers.engines.kubernetes import objects, specs
from helpers.engines.kubernetes.deployment import KubernetesComponent
from helpers.engines.kubernetes.kubectl import Object
from helpers.engines.supervisor import Supervisor
from helpers.engines.supervisor_config import MARK, Program
from helpers.errors import NotListening
from helpers.project.state import make_folder
from helpers.services import Address, ProgressReporter, State

LOOP = Path(__file__).with_name("forward_loop.py")
END_SECONDS = 10.0
OPEN_SECONDS = 20.0  # until a way of its own is there
# what kubectl, and the program of a provider that logs it in, are told of their user
PASSED = ("HOME", "KUBECONFIG", "LANG", "LOGNAME", "PATH", "SSL_CERT_FILE", "USER", "XDG_CONFIG_HOME")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PROVIDERS = ("AWS_PROFILE", "AWS_REGION", "AZURE_CONFIG_DIR", "CLOUDSDK_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS")


class Forwards(KubernetesComponent):
    """Those of the services that have a port for people and clients."""

    @cached_property
    def supervisor(self) -> Supervisor:
        folder = self.deployment.folder / "forwards"
        return Supervisor(folder, folder, self._mark)

    @property
    def _mark(self) -> str:
        """What marks its processes: another engine's of the same project have the project's own id."""
        return f"{self.project.state.instance}-forwards"

    def programs(self) -> list[Program]:
        """One for each service with ports."""
        environment = {name: os.environ[name] for name in (*PASSED, *PROXIES, *PROVIDERS) if os.environ.get(name)}
        result = []
        for service in self.deployment.services:
            if ports := specs.ports(service, self.settings):
                pairs = [f"{port.published}:{port.target}" for port in ports]
                words = ("port-forward", f"--address={ports[0].address}", f"service/{service}", *pairs)
                command = (sys.executable, "-I", str(LOOP), *self.kubectl.command(*words))
                result.append(Program(service, command, environment, "/", "TERM", 10, 0))
        return result

    def start(self, progress: ProgressReporter) -> None:
        """They run exactly so; those that did stay."""
        progress.step("opening the services' ports on this machine")
        make_folder(self.supervisor.folder / "logs", private=True)
        if not self.supervisor.running():
            self._end_orphans()
        self.supervisor.apply(self.programs(), Path(sys.executable).with_name("supervisord"))

    def stop(self) -> None:
        if self.supervisor.running():
            self.supervisor.shutdown()
        self._end_orphans()

    def orphans(self) -> list[int]:
        """The processes that a supervisord that was killed has left, which hold the ports."""
        return process_table.with_variable(MARK, self._mark)

    def _end_orphans(self) -> None:
        process_table.end(self.orphans(), END_SECONDS, {})

    def running(self) -> frozenset[str]:
        """The services that have their way."""
        return frozenset(
            name
            for name, process in self.supervisor.states().items()
            if process.state in (State.RUNNING, State.STARTING)
        )

    def are_current(self) -> bool:
        """Whether they all run as `start` would have them."""
        programs = self.programs()
        return {one.name for one in programs} <= self.running() and all(map(self.supervisor.is_current, programs))

    @contextmanager
    def open(self, service: str, port: str) -> Iterator[Address]:
        """A way of this process alone, to the newest pod that is ready. Raises NotListening."""
        target = next((one.target for one in specs.ports(service, self.settings) if one.name == port), 0)
        if not target:
            raise NotListening(f"{service} publishes no port {port}")
        pod = newest(self.kubectl.listed("pods", f"--selector={objects.PART}={service}"))
        if pod is None:
            raise NotListening(f"{service} has no pod that runs in {self.deployment.where}", "`invoke up` starts it")
        words = ("port-forward", "--address=127.0.0.1", f"pod/{objects.name(pod)}", f":{target}")
        with subprocess.Popen(
            self.kubectl.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                yield Address("127.0.0.1", _port(process, service))
            finally:
                process.kill()


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
