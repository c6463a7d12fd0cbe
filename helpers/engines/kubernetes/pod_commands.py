"""Running a command in a service's pod, or in the task's pod for single commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

from helpers.engines import streaming
from helpers.engines.kubernetes import objects, refusals
from helpers.engines.kubernetes.deployment import KubernetesComponent, KubernetesDeployment
from helpers.engines.kubernetes.rendering import Rendering
from helpers.engines.kubernetes.tool_pods import ToolPods
from helpers.services import JUPYTER, ExecResult

PATIENCE = 60  # seconds, kubectl's own: a pod that is replaced is there again


class PodCommands(KubernetesComponent):
    def __init__(self, deployment: KubernetesDeployment, rendering: Rendering) -> None:
        super().__init__(deployment)
        self.tools = ToolPods(deployment, rendering)

    def run(
        self,
        service: str,
        argv: tuple[str, ...],
        stdin: IO[bytes] | bytes | None,
        timeout: float,
        patience: int = PATIENCE,
    ) -> ExecResult:
        """In the service itself, as its user and with its environment. ``patience``: seconds for a pod to be there."""
        workload = objects.WORKLOADS[service]
        limited = service == JUPYTER
        return self._exec(workload.reference, workload.container, argv, stdin, timeout, limited, patience)

    def _exec(
        self,
        where: str,
        container: str,
        argv: tuple[str, ...],
        stdin: IO[bytes] | bytes | None,
        timeout: float,
        limited: bool = False,
        patience: int = PATIENCE,
    ) -> ExecResult:
        words = _words(where, container, argv, patience)
        done = self.kubectl.run(*words, stdin=stdin, timeout=timeout, limited=limited)
        return ExecResult(done.code, done.stdout, refusals.without_end(done.stderr))

    def run_apart(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None, timeout: float
    ) -> ExecResult:
        """In the task's tool pod; the service may be down."""
        name, typed = self.tools.take(service, argv)
        return self._exec(f"pod/{name}", objects.WORKLOADS[service].container, typed, stdin, timeout)

    @contextmanager
    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool) -> Iterator[streaming.Pipe]:
        """Its input and output stream through this process."""
        workload = objects.WORKLOADS[service]
        where, typed = workload.reference, argv
        if fresh:
            name, typed = self.tools.take(service, argv)
            where = f"pod/{name}"
        with self.pipe_in(where, workload.container, typed) as pipe:
            yield pipe

    def pipe_in(self, where: str, container: str, argv: tuple[str, ...]) -> AbstractContextManager[streaming.Pipe]:
        command = self.kubectl.command(*_words(where, container, argv))
        return streaming.piped(argv[0], command, ignored=refusals.ENDED)


def _words(where: str, container: str, argv: tuple[str, ...], patience: int = PATIENCE) -> list[str]:
    options = ("--stdin", f"--pod-running-timeout={patience}s", f"--container={container}")
    return ["exec", where, *options, "--", *argv]
