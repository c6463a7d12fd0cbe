"""The services as supervised processes: their logs, one stopped or started, and what lost its supervisor."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import time
from collections.abc import Iterator

from helpers import process_table, waiting
from helpers.engines.embedded.deployment import EmbeddedComponent, EmbeddedDeployment
from helpers.engines.supervisor import Supervisor
from helpers.engines.supervisor_config import MARK
from helpers.errors import TrackbedError
from helpers.service_accounts import NOTEBOOK
from helpers.services import JUPYTER, MLFLOW, POSTGRES, ProgressReporter

SERVICES = (POSTGRES, MLFLOW, JUPYTER)


class Processes(EmbeddedComponent):
    def __init__(self, deployment: EmbeddedDeployment) -> None:
        super().__init__(deployment)
        layout = self.layout
        self.supervisor = Supervisor(self.folder, layout.run_folder, self.project.state.instance, layout.trusted)

    def pid(self, service: str) -> int:
        """0 while it is down."""
        process = self.supervisor.states().get(service)
        return process.pid if process else 0

    def logs(self, service: str, tail: int = 200, follow: bool = False) -> Iterator[str]:
        self.layout.check()  # supervisord alone writes there
        path = self.folder / "logs" / f"{service}.log"
        try:
            with path.open(errors="replace") as stream:
                yield from (line.rstrip("\n") for line in collections.deque(stream, tail))
                while follow:
                    if line := stream.readline():
                        yield line.rstrip("\n")
                        continue
                    time.sleep(0.3)  # no wait: whoever follows stops it
                    if path.stat().st_ino != os.fstat(stream.fileno()).st_ino:  # rotated
                        yield from self.logs(service, 1000, follow=True)
                        return
        except FileNotFoundError:
            if service not in SERVICES:
                raise TrackbedError(f"there is no service {service}", f"one of {', '.join(SERVICES)}") from None
            return

    def halt(self, service: str, progress: ProgressReporter) -> None:
        if self.supervisor.running() and self.supervisor.stop(service):
            progress.service(service, "stopped")

    def resume(self, service: str, progress: ProgressReporter) -> None:
        if self.supervisor.running():
            self.supervisor.start(service)
            progress.service(service, "starting")

    def end_notebook(self) -> None:
        """End what the notebook's account runs, what it started aside of the supervisor too."""
        self.layout.accounts.end(NOTEBOOK)

    def stop(self, progress: ProgressReporter, drain: int) -> tuple[str, ...]:
        """Stop every service; gives their names, in the order in which they went."""
        order, stopped = tuple(reversed(self.deployment.services)), []  # the notebook first, the database last
        if self.supervisor.running():
            with contextlib.suppress(OSError):  # it stopped answering on the way: what is left is ended below
                for name in order:
                    progress.service(name, "stopping")
                    if self.supervisor.stop(name):
                        stopped.append(name)
                    progress.service(name, "stopped")
                self.supervisor.shutdown()
        self.end_notebook()
        if self.end_orphans(progress, drain):
            return tuple(stopped) or order
        return tuple(stopped)

    # without a supervisor

    def orphans(self, below: bool = False) -> list[int]:
        """The process numbers of what was started for this project and has no supervisor above it.

        ``below``: also of what these have started.
        """
        return process_table.with_variable(MARK, self.project.state.instance, self.layout.uids(), below)

    def end_orphans(
        self, progress: ProgressReporter, seconds: float, words: str = "stopping processes that lost their supervisor"
    ) -> bool:
        """End processes without a supervisor of ours; what they leave behind too. Tells whether there were any.

        Those on top have ``seconds`` to end what is below them, and then all have ``seconds``, however deep they are.
        """
        if not (left := self.orphans()):
            return False
        progress.step(words)

        def end(pids: list[int]) -> list[int]:
            process_table.end(pids, seconds, {"postgres": signal.SIGINT}, self.layout.uids())  # its fast shutdown
            return self.orphans(below=True)

        def none_left() -> bool:
            nonlocal left
            left = end(left)  # also what they have started in the meantime
            return not left

        left = end(left)
        if not left or waiting.until(none_left, seconds):
            return True
        raise TrackbedError(
            f"{len(left)} processes cannot be ended (process {', '.join(map(str, left[:5]))})",
            "they wait for a disk or a device that does not answer; when it does again, or after a "
            "reboot, `invoke down` ends the rest",
        )
