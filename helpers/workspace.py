"""Whether the notebook can save files in its workspace: a file is written there, by the notebook, where it runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from helpers import commands
from helpers.engines.base import JUPYTER, Engine, ExecResult
from helpers.errors import TrackbedError
from helpers.project import workspace_folder
from helpers.suggestions import shown

# Its words are the notebook's: shown, and compared with what is known, never obeyed.
SCRIPT = r"""
PATH=/usr/bin:/bin
cd "$1" 2>&1 || exit 9
mine=.trackbed-$$
if ! { echo saved >"$mine" && rm -f "$mine"; } 2>&1; then rm -f "$mine"; exit 8; fi
n=0
for folder in */ */*/; do
  n=$((n + 1)); [ $n -le 500 ] || break
  if [ ! -d "$folder" ] || [ -L "${folder%/}" ] || [ -L "${folder%%/*}" ]; then continue; fi
  [ -w "$folder" ] || printf 'closed %s\n' "$folder"
done
exit 0
"""
READ_ONLY, FULL, STALE = "read-only file system", ("no space left", "quota exceeded"), "stale file handle"
REFUSED = (8, 9)  # the script's exit codes
SECONDS = 60.0  # for one try
SHOWN = 3  # of the folders in it that cannot be written


@dataclass(frozen=True)
class Writing:
    """What the try gave: "" and the folders below it that are closed, or why nothing can be saved."""

    problem: str = ""
    fix: str = ""
    closed: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """What to say of folders in the workspace that the notebook may not write to; "" for none."""
        if not self.closed:
            return ""
        more = f" and {len(self.closed) - SHOWN} more" if len(self.closed) > SHOWN else ""
        return f"the notebook cannot save in {', '.join(self.closed[:SHOWN])}{more}"


class Trial:
    """Writing a file into the workspace from inside the notebook, which takes a while: begun before its result is
    asked for, where the notebook runs already."""

    def __init__(self) -> None:
        self._finish: Callable[[], ExecResult] | None = None

    def begin(self, engine: Engine) -> None:
        self.forget()
        with suppress(TrackbedError):  # then all of it is done when its result is asked for
            self._finish = engine.begin(JUPYTER, _command(engine), SECONDS)

    def forget(self) -> None:
        """The notebook may be another one now."""
        self._finish = None

    def require(self, engine: Engine) -> Iterable[str]:
        """What to tell of the workspace. Raises TrackbedError when nothing can be saved in it."""
        done = self._finish() if self._finish else None
        told = done is not None and done.code in (0, *REFUSED, commands.TIMED_OUT)  # the notebook did not end meanwhile
        result = _read(engine, done) if done and told else attempt(engine)
        if result.problem:
            raise TrackbedError(result.problem, result.fix)
        return (f"warning: {result.warning}; if it should: {result.fix}",) if result.warning else ()


def attempt(engine: Engine) -> Writing:
    """Write a file into the workspace from inside the notebook, and remove it."""
    return _read(engine, engine.exec(JUPYTER, _command(engine), timeout=SECONDS))


def _command(engine: Engine) -> tuple[str, ...]:
    return ("/bin/sh", "-c", SCRIPT, "sh", engine.workspace_inside)


def _read(engine: Engine, done: ExecResult) -> Writing:
    output = (done.stdout + done.stderr).strip()
    if done.code == 0:
        closed = tuple(
            shown(line.removeprefix("closed ").rstrip("/"))
            for line in done.stdout.splitlines()
            if line.startswith("closed ")
        )
        return Writing(closed=closed, fix=engine.workspace_fix() if closed else "")
    place = engine.deployment.workspace
    last = shown(commands.last_line(output, f"exit code {done.code}"), 200)
    lower = output.lower()
    if done.code not in REFUSED:  # it could not be tried: the notebook is not there, or it is killed
        return Writing(f"could not test whether the notebook can save files: {last}", "`invoke logs jupyter`")
    if READ_ONLY in lower:
        fix = workspace_folder.read_only_fix(place)
    elif any(word in lower for word in FULL):
        fix = f"free some space there (df -h {shlex.quote(str(place))}), or name another folder in WORKSPACE"
    elif STALE in lower:
        fix = "`invoke down`, then `invoke up`: the folder was replaced while the notebook ran"
    else:
        fix = engine.workspace_fix()
    return Writing(f"the notebook cannot save files in {place}: {last}", fix)
