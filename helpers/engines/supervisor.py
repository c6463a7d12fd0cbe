"""A supervisord of a project: its configuration, its XML-RPC, and what is left when it was killed."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import xmlrpc.client
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from helpers import process_table, safe_files, waiting
from helpers.engines import supervisor_config
from helpers.engines.supervisor_config import MARK, Paths, Program
from helpers.errors import TrackbedError
from helpers.services import State

HOLDING = Path(__file__).with_name("held_sockets.py")
ANSWER_SECONDS = 20.0  # for what supervisord only has to look up
START_SECONDS = 30.0
STOP_SECONDS = 120.0  # longer than any program's stop_seconds, after which supervisord kills it
STOPPABLE = ("STARTING", "RUNNING", "STOPPING")
STATES = {
    "STOPPED": State.EXITED,
    "STARTING": State.STARTING,
    "RUNNING": State.RUNNING,
    "BACKOFF": State.RESTARTING,
    "STOPPING": State.EXITED,
    "EXITED": State.EXITED,
    "FATAL": State.EXITED,
    "UNKNOWN": State.EXITED,
}


@dataclass(frozen=True)
class Process:
    """What supervisor tells of a program. ``started`` in Unix seconds."""

    state: State
    pid: int
    exit_code: int
    reason: str
    started: int
    since: str


class _Connection(http.client.HTTPConnection):
    """To supervisord's socket. supervisor's own knows no time-out."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Supervisor:
    """A supervisord of our own: configuration and logs in ``folder``, its socket in ``run``.

    ``trusted``: whether nobody else could have put the socket there; what answers on another one is not read.
    """

    def __init__(self, folder: Path, run: Path, instance: str, trusted: Callable[[], bool] = lambda: True) -> None:
        self.folder, self.instance, self.trusted = folder, instance, trusted
        self.socket = run / "supervisor.sock"
        self.pid_file = run / "supervisord.pid"
        self.paths = Paths(folder / "logs", self.socket, self.pid_file)
        self.configuration = folder / "supervisord.conf"
        self.hung = False  # it took a call and gave no answer

    def _rpc(self, seconds: float = ANSWER_SECONDS) -> Any:
        """Calls of supervisord, each of which ends after that time (OSError)."""
        from supervisor.xmlrpc import SupervisorTransport  # late: not every engine needs it

        transport = SupervisorTransport("", "", f"unix://{self.socket}")
        transport._get_connection = partial(_Connection, self.socket, seconds)
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def running(self) -> bool:
        if not (self.trusted() and self.socket.exists()):
            return False
        try:
            return bool(self._rpc().getState()["statename"] in ("RUNNING", "RESTARTING"))
        except (OSError, xmlrpc.client.Error):
            return False

    @property
    def pid(self) -> int:
        """0 where there is none."""
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError):
            return 0

    def has_groups(self, groups: Iterable[int]) -> bool:
        """Whether supervisord, if it runs, has these supplementary groups, which its programs inherit."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return True
        line = re.search(r"^Groups:(.*)$", status, re.MULTILINE)
        own = re.search(r"^Gid:\s+(\d+)", status, re.MULTILINE)
        have = {int(word) for match in (line, own) if match for word in match[1].split()}
        return set(groups) <= have or not self.running()

    def states(self) -> dict[str, Process]:
        """Every program by name; empty when supervisord does not run, or does not answer (``hung`` is set then)."""
        if not (self.trusted() and self.socket.exists()):
            return {}
        try:
            listed = self._rpc().getAllProcessInfo()
        except (OSError, xmlrpc.client.Error) as error:
            self.hung = isinstance(error, TimeoutError)
            return {}
        states = {}
        for info in listed:
            state = STATES.get(info["statename"], State.EXITED)
            code = int(info["exitstatus"])
            if info["statename"] in ("BACKOFF", "FATAL"):
                code = self._last_code(info["name"])  # supervisor tells it only for a program that had been running
            reason = info["spawnerr"] or (f"exit code {code}" if info["statename"] == "EXITED" else "")
            if info["statename"] == "STOPPED":
                reason = "stopped"
            states[info["name"]] = Process(
                state, int(info["pid"]), code, reason, int(info["start"]), str(info["description"])
            )
        return states

    def _last_code(self, name: str) -> int:
        """The exit code that supervisord logged last for a program; 1 when it logged none."""
        try:
            lines = (self.folder / "logs" / "supervisord.log").read_text(errors="replace").splitlines()
        except OSError:
            return 1
        for line in reversed(lines):
            if ended := re.search(rf"exited: {re.escape(name)} \(exit status (\d+)", line):
                return int(ended.group(1))
        return 1

    def is_current(self, program: Program, variables: bool = True) -> bool:
        """Whether the last `apply` had the program just so, which then goes on as it is. ``variables``: these too."""
        try:
            text = self.configuration.read_text()
            return supervisor_config.has(text, program, self.paths, self.instance, variables)
        except (OSError, UnicodeDecodeError):
            return False

    def applied(self, name: str) -> tuple[tuple[str, ...], dict[str, str], str] | None:
        """Command, variables and folder of a program as the last `apply` had it; None where it had none."""
        try:
            return supervisor_config.read(self.configuration.read_text(), name)
        except (OSError, UnicodeDecodeError):
            return None

    def apply(self, programs: Iterable[Program], supervisord: Path) -> None:
        """Run exactly these programs: start supervisord or tell the running one what changed."""
        listed = tuple(programs)
        text = supervisor_config.render(listed, self.paths, self.instance)
        safe_files.write(self.configuration, text.encode(), 0o600)
        if not self.running():
            self._launch(supervisord)
            return
        rpc = self._rpc(STOP_SECONDS)
        added, changed, removed = rpc.reloadConfig()[0]
        for name in (*changed, *removed):
            self.stop(name)
            rpc.removeProcessGroup(name)
        for name in (*added, *changed):
            rpc.addProcessGroup(name)
        for name, process in self.states().items():
            if process.state is State.RESTARTING:
                self.stop(name)  # not to sit out the pause before its next try
            if process.state in (State.EXITED, State.RESTARTING):
                self._call(rpc.startProcess, name, False)

    def _launch(self, supervisord: Path) -> None:
        for stale in (self.socket, self.pid_file):
            stale.unlink(missing_ok=True)
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", MARK: self.instance}
        done = subprocess.run(
            [str(supervisord.with_name("python")), "-I", str(HOLDING), "-c", str(self.configuration)],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            timeout=60,
            check=False,
        )
        if done.returncode or not waiting.until(self.running, START_SECONDS):
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
            reason = next((line for line in lines if line.startswith("Error")), lines[-1])  # a usage line follows
            raise TrackbedError(f"supervisord did not start: {reason}", f"its log: {self.folder}/logs/supervisord.log")

    def stop(self, name: str) -> bool:
        """Stop one program and wait; False when it was not running. Bounded by its stop_seconds.

        Raises TimeoutError when it cannot be ended.
        """
        rpc = self._rpc()
        self._call(rpc.signalProcess, name, "CONT")  # a frozen one could not end itself, and would be killed
        if not self._call(rpc.stopProcess, name, False):
            return False

        def has_ended() -> bool:
            info = rpc.getProcessInfo(name)
            if info["statename"] not in STOPPABLE:
                return True
            _end_outside_its_group(int(info["pid"]))
            return False

        if not waiting.until(has_ended, STOP_SECONDS):
            raise TimeoutError(f"{name} does not end")
        return True

    def start(self, name: str) -> bool:
        """Start one program as it is configured; False when it runs already."""
        return self._call(self._rpc().startProcess, name, False)

    @staticmethod
    def _call(method: Any, *arguments: Any) -> bool:
        try:
            return bool(method(*arguments))
        except xmlrpc.client.Fault:
            return False  # not running, or already started: what was wanted

    def shutdown(self) -> None:
        """End supervisord; returns when it is gone."""
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            pid = 0
        self._call(self._rpc().shutdown)
        waiting.until(lambda: not (pid and process_table.alive(pid)), 60)


def _end_outside_its_group(pid: int) -> None:
    """End a program that has joined another process group: supervisord's signals, which go to its own, miss it."""
    try:
        if pid and os.getpgid(pid) != pid:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended
