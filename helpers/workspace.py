"""Whether the notebook can save files in its workspace: a file is written there, by the notebook, where it runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from helpers import commands
from helpers.engines.base import JUPYTER, Engine
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


def attempt(engine: Engine) -> Writing:
    """Write a file into the workspace from inside the notebook, and remove it."""
    done = engine.exec(JUPYTER, ("/bin/sh", "-c", SCRIPT, "sh", engine.workspace_inside), timeout=60)
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
    if done.code not in (8, 9):  # it could not be tried: the notebook is not there, or it is killed
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


def require(engine: Engine) -> Iterable[str]:
    """What to tell of the workspace. Raises TrackbedError when nothing can be saved in it."""
    result = attempt(engine)
    if result.problem:
        raise TrackbedError(result.problem, result.fix)
    return (f"warning: {result.warning}; if it should: {result.fix}",) if result.warning else ()
