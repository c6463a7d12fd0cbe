"""Commands in the services' containers, or in fresh copies of them; stopping one service for a while."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO

from helpers import clone, commands, side_by_side
from helpers.engines import streaming
from helpers.engines.docker.compose import FEED, FEED_PATH, STREAM, ComposeProject
from helpers.engines.docker.containers import Containers
from helpers.engines.docker.deployment import DockerComponent
from helpers.engines.docker.notebook_container import NotebookContainer
from helpers.services import JUPYTER, ExecResult, ProgressReporter, State

DRAIN = 40  # seconds for requests that run


class ServiceCommands(DockerComponent):
    """What is run in a service from outside."""

    def __init__(self, containers: Containers, notebook: NotebookContainer, compose: ComposeProject) -> None:
        super().__init__(compose.deployment)
        self.containers, self.notebook, self.compose = containers, notebook, compose

    def _exec(self, service: str, argv: tuple[str, ...]) -> list[str]:
        return ["docker", "exec", "-i", self.containers.find(service).id, *argv]

    def run(self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None, timeout: float) -> ExecResult:
        return commands.run(self._exec(service, argv), stdin, timeout, limited=service == JUPYTER)

    def begin(self, service: str, argv: tuple[str, ...], timeout: float) -> Callable[[], ExecResult]:
        command = self._exec(service, argv)  # not in the other thread: the SDK's session is for one
        return side_by_side.begin(lambda: commands.run(command, None, timeout, limited=service == JUPYTER))

    def one_shot(
        self, service: str, argv: tuple[str, ...], stdin: IO[bytes] | bytes | None, timeout: float
    ) -> ExecResult:
        """In a fresh copy."""
        if service == JUPYTER:
            return self.notebook.one_shot(argv, stdin, timeout)
        return self.compose.one_shot(service, argv, stdin, timeout)

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool) -> AbstractContextManager[streaming.Pipe]:
        command = self.compose.fresh(service, argv) if fresh else self._exec(service, argv)
        return streaming.piped(argv[0], command, self.compose.environment(STREAM if fresh else ""), clone.ROOT)

    @contextmanager
    def feed(self, service: str, argv: tuple[str, ...]) -> Iterator[streaming.Pipe]:
        """A fresh copy that reads from a named pipe of ours; through the engine where it cannot."""
        with ExitStack() as stack:
            pipe = self._fed(service, argv, stack) if self._is_here() else None
            yield pipe or stack.enter_context(self.pipe(service, argv, fresh=True))

    def _fed(self, service: str, argv: tuple[str, ...], stack: ExitStack) -> streaming.Pipe | None:
        """A copy that has opened the pipe, which nobody finds any more then; None where there is none."""
        with ExitStack() as folder, ExitStack() as attempt:
            try:
                # nobody else's way leads into it
                path = Path(folder.enter_context(tempfile.TemporaryDirectory(prefix="trackbed-")), "feed")
                os.mkfifo(path)
                path.chmod(0o644)  # the container's user may be any
            except OSError:
                return None  # a full disk, or a file system without pipes
            values = {**self.compose.environment(f"{STREAM}:{FEED}"), "TRACKBED_FEED": str(path)}
            # as a word, not a variable: an image of an earlier version refuses it at once
            command = self.compose.fresh(service, (*argv, FEED_PATH))
            pipe = attempt.enter_context(streaming.piped(argv[0], command, values, clone.ROOT))
            if pipe.feed_by(path):
                stack.enter_context(attempt.pop_all())
                return pipe
        return None

    def _is_here(self) -> bool:
        """Whether the engine's containers see this process's files: not in a virtual machine, nor beside a container
        that this runs in."""
        if self.deployment.host.remote:
            return False
        info = self.deployment.info
        return (info.get("KernelVersion"), info.get("Name")) == (platform.release(), socket.gethostname())

    def halt(self, service: str, progress: ProgressReporter) -> None:
        for status in self.containers.statuses():
            if status.name == service and status.state not in (State.MISSING, State.EXITED):
                self.api.stop(status.identity, DRAIN)
                progress.service(service, "stopped")

    def resume(self, service: str, progress: ProgressReporter) -> None:
        for status in self.containers.statuses():
            if status.name == service and status.state is State.EXITED:
                self.api.start(status.identity)
                progress.service(service, "starting")
