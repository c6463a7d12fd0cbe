"""Another machine, reached over ssh: one connection of the system's own client carries everything.

The connection carries the engine's socket (a local Unix socket takes its place), the published ports that are looked
at, and commands. It lasts as long as this process: the far end reads our pipe, so even `kill -9` ends it.
"""

from __future__ import annotations

import atexit
import os
import queue
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from helpers import commands, errors
from helpers.engines.docker.ssh_target import Target, explain
from helpers.errors import EngineUnavailable
from helpers.services import ExecResult

CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
LOCAL_SOCKET = "docker.sock"
# Read by a POSIX shell on its stdin, whatever the login shell is; the last line then waits for our end.
LOOK = r"""
echo "trackbed uid $(id -u)"
echo "trackbed home $HOME"
echo "trackbed command $(command -v docker)"
host=@SOCKET@
[ -n "$host" ] || host=$DOCKER_HOST
[ -n "$host" ] || host=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null)
[ -n "$host" ] || host=unix:///var/run/docker.sock
echo "trackbed engine $host"
path=${host#unix://}
if [ ! -S "$path" ]; then echo "trackbed socket missing"
elif [ -r "$path" ] && [ -w "$path" ]; then echo "trackbed socket ok"
else echo "trackbed socket denied"; fi
echo "trackbed end"
exec cat >/dev/null
"""


class Node:
    """A connection to a machine. Made by ``connect``; every call is bounded."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.target = Target.parse(url)
        self.uid = -1
        self.home = ""
        self._folder = Path()
        self._process: subprocess.Popen[str] | None = None
        self._errors: list[str] = []
        self._forwards: dict[int, int] = {}

    # the connection

    def connect(self) -> None:
        """Connect, and put the machine's engine behind a local socket. Raises EngineUnavailable with the fix."""
        if shutil.which("ssh") is None:
            raise EngineUnavailable("there is no ssh client here", "install openssh-client")
        # not below TMPDIR, which may be too long for a socket's path
        self._folder = Path(tempfile.mkdtemp(prefix="trackbed-ssh-", dir="/tmp"))
        atexit.register(self.close)
        # a session of its own: no terminal to ask for a password on, and Ctrl-C is ours to handle
        self._process = subprocess.Popen(
            [
                "ssh",
                "-M",
                "-T",
                *self._options(),
                "-o",
                "ControlPersist=no",
                "-o",
                "RemoteCommand=none",
                "-o",
                "ClearAllForwardings=yes",
                "-o",
                "ForwardAgent=no",
                "-o",
                "ForwardX11=no",
                "-o",
                "PermitLocalCommand=no",
                *self.target.words[:-1],
                "--",
                self.target.name,
                "sh -s",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            result = self._look()
            self._take_socket(result)
        except BaseException:
            self.close()
            raise

    def _options(self) -> list[str]:
        return [
            "-S",
            str(self._folder / "c"),
            "-o",
            "BatchMode=yes",
            "-o",
            f"ConnectTimeout={CONNECT_SECONDS}",
            "-o",
            "ConnectionAttempts=1",
            "-o",
            "ServerAliveInterval=10",
            "-o",
            "ServerAliveCountMax=3",
            "-o",
            "LogLevel=INFO",
        ]

    def _look(self) -> dict[str, str]:
        """Feed the looking script and collect its lines."""
        process = self._process
        assert process is not None and process.stdin and process.stdout and process.stderr
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        reader = threading.Thread(target=_collect, args=(process.stderr, self._errors), daemon=True)
        reader.start()
        with suppress(OSError):  # it has ended already: its stderr says why
            path = self.target.socket
            process.stdin.write(LOOK.replace("@SOCKET@", shlex.quote(f"unix://{path}") if path else ""))
            process.stdin.flush()
        deadline = time.monotonic() + ANSWER_SECONDS
        result: dict[str, str] = {}
        while True:
            try:
                line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise EngineUnavailable(
                    f"{self.target.name} does not answer (connected, but no shell within {ANSWER_SECONDS} s)",
                    f"try: ssh {self.target.typed} true",
                ) from None
            if line is None:
                reader.join(2)
                raise explain(self.target, "\n".join(self._errors))
            if line.startswith("trackbed "):  # login scripts may print what they like
                _, name, value = [*line.split(" ", 2), ""][:3]
                result[name] = value.strip()
                if name == "end":
                    return result

    def _take_socket(self, facts: Mapping[str, str]) -> None:
        self.uid, self.home = int(facts.get("uid", "-1") or -1), facts.get("home", "")
        name, engine = self.target.name, facts.get("engine", "")
        existing = f"ssh {self.target.typed}"
        if not engine.startswith("unix://"):
            raise EngineUnavailable(
                f"the engine of {name} listens on {engine}, not on a Unix socket",
                "unset DOCKER_HOST there, or choose a local context there",
            )
        path = engine.removeprefix("unix://")
        if facts.get("socket") == "missing":
            if not facts.get("command"):
                raise EngineUnavailable(
                    f"there is no Docker on {name}",
                    f"install it there: {existing} 'curl -fsSL https://get.docker.com | sudo sh && "
                    "sudo usermod -aG docker $USER'",
                )
            raise EngineUnavailable(
                f"Docker does not run on {name}: there is no {path}",
                f"start it there: {existing} sudo systemctl start docker",
            )
        if facts.get("socket") != "ok":
            raise EngineUnavailable(
                f"permission denied at {path} on {name}",
                f"{existing} 'sudo usermod -aG docker $USER'; the next connection has it",
            )
        self._forward(f"{self._folder / LOCAL_SOCKET}:{path}")

    @property
    def docker_host(self) -> str:
        """The address of the machine's engine for a Docker client here."""
        return f"unix://{self._folder / LOCAL_SOCKET}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def last_error(self) -> str:
        """The client's last words, for a connection that fails later."""
        return self._errors[-1] if self._errors else ""

    def _forward(self, way: str) -> None:
        done = self._run(
            ["ssh", "-O", "forward", *self._options(), "-L", way, *self.target.words[:-1], "--", self.target.name],
            None,
            CONNECT_SECONDS,
        )
        if done.code:
            said = commands.last_line(done.stderr or done.stdout, self.last_error)
            raise EngineUnavailable(
                f"ssh to {self.target.name} cannot forward {way}: {said}",
                f"does `ssh {self.target.typed} true` work, and does its sshd allow forwarding?",
            )

    def close(self) -> None:
        """End the connection. Does nothing when there is none."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
            process.terminate()  # it would wait for the connections that go through it
            with suppress(subprocess.TimeoutExpired):
                process.wait(3)
            if process.poll() is None:
                process.kill()
        self._forwards.clear()
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)
        atexit.unregister(self.close)

    # what goes through it

    def run(self, script: str, *args: str, timeout: float = 30) -> ExecResult:
        """A POSIX shell script on the machine, its words as ``$1`` and on; never asks, never hangs."""
        command = shlex.join(["sh", "-s", "--", *args])
        return self._run(
            ["ssh", "-T", *self._options(), *self.target.words[:-1], "--", self.target.name, command],
            script.encode(),
            timeout,
        )

    def python(self, script: bytes, *args: str, timeout: float = 60) -> ExecResult:
        """A script for the machine's own python3; exit code 127 where it has none."""
        command = shlex.join(["python3", "-", *args])
        return self._run(
            ["ssh", "-T", *self._options(), *self.target.words[:-1], "--", self.target.name, command], script, timeout
        )

    def port(self, published: int, address: str = "127.0.0.1") -> int:
        """A port of this machine that leads to a published port of that one."""
        if published in self._forwards:
            return self._forwards[published]
        for last in (False, False, True):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                local = int(probe.getsockname()[1])
            try:
                self._forward(f"127.0.0.1:{local}:{address}:{published}")
            except EngineUnavailable:  # another process was faster with that port
                if last:
                    raise
                continue
            self._forwards[published] = local
            return local
        raise AssertionError

    def _run(self, argv: list[str], stdin: bytes | None, timeout: float) -> ExecResult:
        # a session of its own: Ctrl-C is ours to handle
        return commands.run(argv, stdin, timeout, start_new_session=True)


def _pump(stream: object, lines: queue.Queue[str | None]) -> None:
    with suppress(ValueError, OSError):  # closed under us
        for line in stream:  # type: ignore[attr-defined]
            lines.put(line.rstrip("\n"))
    lines.put(None)


def _collect(stream: object, lines: list[str]) -> None:
    with suppress(ValueError, OSError):
        for line in stream:  # type: ignore[attr-defined]
            if line.strip():
                lines.append(line.strip())


_open: dict[str, Node] = {}


def reach(url: str) -> Node:
    """The connection to a machine, made once a process; this process's Docker clients are pointed to its engine.

    Raises EngineUnavailable with the fix.
    """
    node = _open.get(url)
    if node is None:
        node = Node(url)
        node.connect()
        _open[url] = node
    # the SDK, `docker`, Compose and Buildx all read it: none can talk to another machine by mistake
    os.environ["DOCKER_HOST"] = node.docker_host
    os.environ.pop("DOCKER_CONTEXT", None)
    return node


def reached(host: str) -> Node | None:
    """The connection whose local socket this address is."""
    return next((node for node in _open.values() if node.docker_host == host), None)


def lost_connection() -> EngineUnavailable | None:
    """The error for a connection that has ended under us; None while all of them stand."""
    for node in _open.values():
        if not node.alive:
            return EngineUnavailable(
                f"the connection to {node.target.name} was lost" + (f": {node.last_error}" if node.last_error else ""),
                "what was started there goes on; run the same command again",
            )
    return None


errors.REASONS.append(lost_connection)
