"""A change of what is active, in two copies: the old stays until the new is proven; a note on disk tells of both.

An import that is interrupted goes on where it was: another note keeps the artifacts that it had stored.

The pointer (``live`` in the state file) is replaced in one step. Whatever ends a command in between, the next `up`
finds the note and removes the copy that the pointer does not name.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from helpers.data import artifacts, database
from helpers.engines.base import Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.project.state import State, write_private

FILE = "change.json"
KEPT = "kept.json"  # what the last upgrade left to go back to
IMPORT = "import.json"  # which numbers of experiments an interrupted import has
IMPORTED = "import-artifacts.json"  # what an interrupted import into an empty project had stored
FILES = (FILE, KEPT, IMPORT, IMPORTED)


def fresh() -> dict[str, str]:
    """Names nobody has used: a database and an artifact prefix."""
    stamp = f"{datetime.now(UTC):%Y%m%d%H%M%S}{secrets.token_hex(2)}"
    return {"database": f"mlflow_{stamp}", "prefix": f"live-{stamp}"}


def _path(state: State) -> Path:
    return state.folder / FILE


def open_change(state: State, engine: str, new: dict[str, str], kept: dict[str, str] | None = None) -> None:
    """Note that ``new`` is about to be made beside what is active.

    ``kept``: the old one stays when ``new`` is active, to go back to; this is what `upgrade --back` reads then.
    """
    old = {key: state.active[key] for key in ("database", "prefix")}
    note = {"engine": engine, "old": old, "new": new, **({"kept": kept} if kept else {})}
    write_private(_path(state), json.dumps(note).encode())


def read(state: State) -> dict[str, dict[str, str]] | None:
    """What the note says, by "old", "new" and perhaps "kept"; None without one."""
    try:
        data = json.loads(_path(state).read_bytes())
        note = {which: {key: str(data[which][key]) for key in ("database", "prefix")} for which in ("old", "new")}
        if "kept" in data:
            note["kept"] = {key: str(value) for key, value in data["kept"].items()}
        return note
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise TrackbedError(f"{_path(state)} is damaged", f"remove it: rm {_path(state)}") from None


def close(state: State) -> None:
    _path(state).unlink(missing_ok=True)


@dataclass(frozen=True)
class Stored:
    """What an interrupted import stored: of which source, below which prefix, and when it began to."""

    source: str
    prefix: str
    began: float


def hold(state: State, source: str, prefix: str) -> None:
    """Note that the artifacts below ``prefix`` stay, whatever ends the import, until `release`."""
    write_private(state.folder / IMPORTED, json.dumps(asdict(Stored(source, prefix, time.time()))).encode())


def held(state: State) -> Stored | None:
    """What an interrupted import stored and nobody has taken up; None where there is nothing."""
    path = state.folder / IMPORTED
    try:
        data = json.loads(path.read_bytes())
        result = Stored(str(data["source"]), str(data["prefix"]), float(data["began"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise TrackbedError(f"{path} is damaged", f"remove it: rm {path}") from None
    return None if result.prefix == state.active["prefix"] else result  # it was killed when it had switched to it


def release(state: State) -> None:
    (state.folder / IMPORTED).unlink(missing_ok=True)


def drop_held(state: State, engine: Engine, progress: ProgressReporter) -> None:
    """Remove what an interrupted import stored."""
    if stored := held(state):
        progress.step(f"removing the artifacts below {stored.prefix}, which an interrupted import left")
        artifacts.drop(engine, stored.prefix)
    release(state)


def recover(state: State, engine: Engine, progress: ProgressReporter) -> None:
    """Remove what an ended or interrupted change left: the copy that is not active. The active one has to be up."""
    result = read(state)
    if result is None:
        return
    stays, stored = {state.active["database"]}, held(state)
    if "kept" in result and state.active["database"] == result["new"]["database"]:
        write_private(state.folder / KEPT, json.dumps(result["kept"]).encode())
        stays.add(result["kept"]["database"])
    for copy in {note["database"]: note for note in (result["old"], result["new"])}.values():
        if copy["database"] not in stays:
            progress.step(f"removing the database {copy['database']}, which is no longer active")
            database.drop(engine, copy["database"])
        if stored and copy["prefix"] == stored.prefix:
            progress.step(f"the artifacts below {copy['prefix']} stay: the same import goes on with them")
        elif copy["prefix"] != state.active["prefix"]:
            progress.step(f"removing the artifacts below {copy['prefix']}, which are no longer active")
            artifacts.drop(engine, copy["prefix"])
    close(state)
