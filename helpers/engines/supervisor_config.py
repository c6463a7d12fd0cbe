"""supervisor's configuration file: the programs, written so that its own readers give back every value as it was."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import TrackbedError

TRIES = 1000  # failed starts in a row, five days of them, before supervisord gives up
MARK = "TRACKBED_INSTANCE_OF_PROCESS"  # a variable of everything that runs for a project


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
class Paths:
    """Where supervisord keeps what is its own."""

    logs: Path
    socket: Path
    pid_file: Path


def render(programs: Iterable[Program], paths: Paths, instance: str) -> str:
    """The file's text; every program is marked with the project's ``instance``."""
    logs, socket, pid_file = (_escaped(str(path)) for path in (paths.logs, paths.socket, paths.pid_file))
    blocks = [
        f"[unix_http_server]\nfile={socket}\nchmod=0700\n",
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
        f"[supervisord]\nlogfile={logs}/supervisord.log\nlogfile_maxbytes=5MB\nlogfile_backups=2\n"
        f"pidfile={pid_file}\nchildlogdir={logs}\nnocleanup=true\numask=077\n"
        + ("user=root\n" if os.geteuid() == 0 else ""),  # said, or it warns; each program becomes its own account
    ]
    return "\n".join([*blocks, *(_block(program, logs, instance) for program in programs)])


def has(text: str, program: Program, paths: Paths, instance: str, variables: bool = True) -> bool:
    """Whether such a file has the program as `render` would write it now. ``variables``: these too."""
    expected = _unordered(_block(program, _escaped(str(paths.logs)), instance), variables)
    return any(_unordered(f"[{section}", variables) == expected for section in text.split("\n["))


def read(text: str, name: str) -> tuple[tuple[str, ...], dict[str, str], str] | None:
    """Command, variables and folder of a program in such a file, as they were given to `render`; None without it."""
    for section in text.split("\n["):
        head, *lines = section.splitlines()
        if head.strip("[]").partition(":")[2] != name:
            continue
        given = {key: _plain(value) for key, _, value in (line.partition("=") for line in lines)}
        variables = re.findall(r"""(\w+)=(?:"([^"]*)"|'([^']*)')""", given["environment"])
        environment = {key: one or other for key, one, other in variables if key != MARK}
        return tuple(shlex.split(given["command"])), environment, given["directory"]
    return None


def _plain(value: str) -> str:
    """What `_escaped` made of it, undone."""
    return value.replace("%(here).0s", "").replace("%%", "%")


def _unordered(block: str, variables: bool) -> list[str]:
    """Its lines, with the variables in any order: supervisord compares them as a table."""
    result: list[str] = []
    for line in block.splitlines():
        given = line.removeprefix("environment=")
        if given == line:
            result.append(line)
        elif variables:
            result += given.split(",")
    return sorted(result)


def _block(program: Program, logs: str, instance: str) -> str:
    variables = {**program.environment, MARK: instance}
    environment = ",".join(_assignment(name, value) for name, value in variables.items())
    twice = logs.replace("%", "%%")  # supervisor expands this one value twice
    restart = "unexpected" if program.final_codes else "true"
    codes = ",".join(str(code) for code in program.final_codes) or "0"
    kind, held = "program", ""
    if program.listens:
        kind, held = "fcgi-program", f"socket=tcp://{program.listens[0]}:{program.listens[1]}\n"
    return (
        f"[{kind}:{program.name}]\n{held}"
        f"command={' '.join(_word(word) for word in program.command)}\n"
        f"directory={_escaped(program.folder)}\n"
        f"environment={environment}\n"
        f"autostart=true\nautorestart={restart}\nexitcodes={codes}\n"
        # as Docker and Kubernetes do: each failed start makes the pause before the next one a second longer
        f"startsecs={program.start_seconds}\nstartretries={TRIES}\n"
        f"stopsignal={program.stop_signal}\nstopwaitsecs={program.stop_seconds}\n"
        f"stopasgroup={str(program.group).lower()}\nkillasgroup=true\n"
        f"redirect_stderr=true\nstdout_logfile={twice}/{program.name}.log\n"
        "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=3\n"
    )


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
            f"{name} has quotes or control characters that supervisor cannot pass on",
            f"change or unset {name}",
        )
    return f"{name}={quote}{_escaped(value)}{quote}"
