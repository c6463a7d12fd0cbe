"""supervisor as the embedded engine uses it: its configuration, its XML-RPC, and what is left when it was killed."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from helpers import safe_files
from helpers.errors import TrackbedError
from helpers.services import State

MARK = "TRACKBED_INSTANCE_OF_PROCESS"
HOLDING = Path(__file__).with_name("holding.py")
ANSWER_SECONDS = 20.0  # for what supervisord only has to look up
KILL_SECONDS = 5.0  # after which one that was killed waits for a disk or a device
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
class Program:
    """One supervised program. ``start_seconds``: an end before that counts as a failed start;
    ``final_codes``: exit codes after which it is not started again; ``group``: signals go to its children too;
    ``listens``: the address and port of the socket that it has as its standard input, held while it is down.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    stop_signal: str
    stop_seconds: int
    start_seconds: int
    final_codes: tuple[int, ...] = ()
    group: bool = True
    listens: tuple[str, int] | None = None


@dataclass(frozen=True)
class Process:
    """What supervisor tells of a program. ``started`` in Unix seconds."""

    state: State
    pid: int
    exit_code: int
    reason: str
    started: int
    since: str


def _escaped(text: str) -> str:
    """A value for supervisor's own reader, which expands % and takes # or ; after a blank for a comment."""
    return re.sub(r"(?<=\s)([#;])", r"%(here).0s\1", text.replace("%", "%%"))  # the expansion is empty


def _word(text: str) -> str:
    """A word of a command: split like a shell's after expansion."""
    return '"' + _escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _assignment(name: str, value: str) -> str:
    """NAME="value" for a list of them, whose reader knows no escapes and strips quotes from the ends."""
    quote = "'" if '"' in value else '"'
    if quote in value or value.strip("'\"") != value or not value.isprintable():
        raise TrackbedError(
            f"{name} has quotes or control characters that the embedded engine cannot pass on",
            f"change or unset {name}",
        )
    return f"{name}={quote}{_escaped(value)}{quote}"


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
        self.configuration = folder / "supervisord.conf"
        self.hung = False  # it took a call and gave no answer

    def _rpc(self, seconds: float = ANSWER_SECONDS) -> Any:
        """Calls of supervisord, each of which ends after that time (OSError)."""
        from supervisor.xmlrpc import SupervisorTransport  # late: only the embedded engine needs it

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

    def has_groups(self, wanted: Iterable[int]) -> bool:
        """Whether supervisord, if it runs, has these supplementary groups, which its programs inherit."""
        try:
            status = Path(f"/proc/{int(self.pid_file.read_text())}/status").read_text()
        except (OSError, ValueError):
            return True
        line = re.search(r"^Groups:(.*)$", status, re.MULTILINE)
        own = re.search(r"^Gid:\s+(\d+)", status, re.MULTILINE)
        have = {int(word) for match in (line, own) if match for word in match[1].split()}
        return set(wanted) <= have or not self.running()

    def states(self) -> dict[str, Process]:
        """Every program by name; empty when supervisord does not run, or does not answer (``hung`` is set then)."""
        if not (self.trusted() and self.socket.exists()):
            return {}
        try:
            listed = self._rpc().getAllProcessInfo()
        except (OSError, xmlrpc.client.Error) as error:
            self.hung = isinstance(error, TimeoutError)
            return {}
        found = {}
        for info in listed:
            state = STATES.get(info["statename"], State.EXITED)
            code = int(info["exitstatus"])
            if info["statename"] in ("BACKOFF", "FATAL"):
                code = self._last_code(info["name"])  # supervisor tells it only for a program that had been running
            reason = info["spawnerr"] or (f"exit code {code}" if info["statename"] == "EXITED" else "")
            if info["statename"] == "STOPPED":
                reason = "stopped"
            found[info["name"]] = Process(
                state, int(info["pid"]), code, reason, int(info["start"]), str(info["description"])
            )
        return found

    def _last_code(self, name: str) -> int:
        """The exit code that supervisord logged last for a program; 1 when it logged none."""
        try:
            lines = (self.folder / "logs" / "supervisord.log").read_text(errors="replace").splitlines()
        except OSError:
            return 1
        for line in reversed(lines):
            if found := re.search(rf"exited: {re.escape(name)} \(exit status (\d+)", line):
                return int(found.group(1))
        return 1

    def render(self, programs: Iterable[Program]) -> str:
        """The configuration file's text."""
        logs, socket, pid_file = (_escaped(str(p)) for p in (self.folder / "logs", self.socket, self.pid_file))
        twice = logs.replace("%", "%%")  # supervisor expands this one value twice
        blocks = [
            f"[unix_http_server]\nfile={socket}\nchmod=0700\n",
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
            f"[supervisord]\nlogfile={logs}/supervisord.log\nlogfile_maxbytes=5MB\nlogfile_backups=2\n"
            f"pidfile={pid_file}\nchildlogdir={logs}\nnocleanup=true\numask=077\n"
            + ("user=root\n" if os.geteuid() == 0 else ""),  # said, or it warns; each program becomes its own account
        ]
        for program in programs:
            environment = ",".join(
                _assignment(name, value) for name, value in {**program.environment, MARK: self.instance}.items()
            )
            restart = "unexpected" if program.final_codes else "true"
            codes = ",".join(str(code) for code in program.final_codes) or "0"
            kind, held = "program", ""
            if program.listens:
                kind, held = "fcgi-program", f"socket=tcp://{program.listens[0]}:{program.listens[1]}\n"
            blocks.append(
                f"[{kind}:{program.name}]\n{held}"
                f"command={' '.join(_word(word) for word in program.command)}\n"
                f"directory={_escaped(program.folder)}\n"
                f"environment={environment}\n"
                f"autostart=true\nautorestart={restart}\nexitcodes={codes}\n"
                f"startsecs={program.start_seconds}\nstartretries=3\n"
                f"stopsignal={program.stop_signal}\nstopwaitsecs={program.stop_seconds}\n"
                f"stopasgroup={str(program.group).lower()}\nkillasgroup=true\n"
                f"redirect_stderr=true\nstdout_logfile={twice}/{program.name}.log\n"
                "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=3\n"
            )
        return "\n".join(blocks)

    def apply(self, programs: Iterable[Program], supervisord: Path) -> None:
        """Run exactly these programs: start supervisord or tell the running one what changed."""
        listed = tuple(programs)
        text = self.render(listed)
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
        deadline = time.monotonic() + 30
        while not self.running():
            if done.returncode or time.monotonic() > deadline:
                words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
                reason = next((line for line in words if line.startswith("Error")), words[-1])  # a usage line follows
                raise TrackbedError(
                    f"supervisord did not start: {reason}", f"its log: {self.folder}/logs/supervisord.log"
                )
            time.sleep(0.05)

    def stop(self, name: str) -> bool:
        """Stop one program and wait; False when it was not running. Bounded by its stop_seconds.

        Raises TimeoutError when it cannot be ended.
        """
        rpc = self._rpc()
        self._call(rpc.signalProcess, name, "CONT")  # a frozen one could not end itself, and would be killed
        if not self._call(rpc.stopProcess, name, False):
            return False
        deadline = time.monotonic() + STOP_SECONDS
        while (info := rpc.getProcessInfo(name))["statename"] in STOPPABLE:
            _end_outside_its_group(int(info["pid"]))
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} does not end")
            time.sleep(0.05)
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
        deadline = time.monotonic() + 60
        while pid and _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)


def _end_outside_its_group(pid: int) -> None:
    """End a program that has joined another process group: supervisord's signals, which go to its own, miss it."""
    try:
        if pid and os.getpgid(pid) != pid:
            os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def orphans(instance: str, uids: Collection[int] = ()) -> list[int]:
    """Processes started for this instance that are still there (Linux: read from their environment).

    Parents before children, so that PostgreSQL's own children are left to it. ``uids``: only of these accounts; others
    write into their environment what they like.
    """
    wanted = f"{MARK}={instance}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (not uids or folder.stat().st_uid in uids) and wanted in (folder / "environ").read_bytes().split(b"\0"):
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                found.append((int(folder.name), parent))
        except (OSError, ValueError, IndexError):
            continue
    pids = {pid for pid, _ in found if _alive(pid)}
    return sorted(pid for pid, parent in found if pid in pids and parent not in pids)


def terminate(pids: Iterable[int], seconds: float) -> None:
    """End processes: PostgreSQL by fast shutdown, others by SIGTERM, after ``seconds`` by SIGKILL."""
    left = list(pids)
    for pid in left:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            os.kill(pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)  # a frozen one could not end itself
        except OSError:
            continue
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        if _alive(pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
    deadline = time.monotonic() + KILL_SECONDS
    while any(_alive(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.05)
