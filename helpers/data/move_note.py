"""The note of a move between engines, and taking back a move that was interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from helpers.data import journal
from helpers.engines import select
from helpers.engines.base import Engine, ProgressReporter
from helpers.errors import Interrupted, TrackbedError, WrongProject
from helpers.project.project import Project
from helpers.project.state import State, make_folder, write_private
from helpers.services import Notice
from helpers.settings import Settings

FILE = "move.json"
FOLDER = "moving"


def _path(project: Project) -> Path:
    return project.settings.folder / FILE


def scratch(project: Project, engine: str, object_store: str) -> Project:
    """This project on the other engine, empty, with a state of its own."""
    folder = make_folder(project.settings.folder / FOLDER, private=True)
    state = State(folder, instance=project.state.instance, engine=engine, remembered=dict(project.state.remembered))
    state.active["prefix"] = journal.fresh()["prefix"]  # both sides may have the same bucket
    state.active["store"] = "folder"  # none yet: `auto` is what a new project gets there, not what an old one has
    return Project(settings_on(project, engine, object_store), state)


def settings_on(project: Project, engine: str, object_store: str) -> Settings:
    """The settings on the other side; what the next `up` remembers is the new store, not the word of this command."""
    return project.settings.reload(project.state.remembered, engine=engine, object_store=object_store)


def begin(project: Project, to: str, object_store: str) -> None:
    write_private(_path(project), json.dumps({"from": project.state.engine, "to": to, "store": object_store}).encode())


def finish(project: Project) -> None:
    """The move has ended: forget what it needed."""
    shutil.rmtree(project.settings.folder / FOLDER, ignore_errors=True)
    _path(project).unlink(missing_ok=True)


def data_names(engine: Engine) -> tuple[str, ...]:
    """The data that this engine has of the project, without what is the user's own or made again."""
    return tuple(item.name for item in engine.data() if not (item.is_workspace or item.name.endswith("/venvs")))


def clear(engine: Engine, project: Project, progress: ProgressReporter, notice: Notice) -> bool:
    """Stop what runs there, and remove its data; the notebook's files stay: what a backup leaves out is there alone.

    False where that is not possible now: it is told, and a later `up` tries again.
    """
    try:
        engine.stop(progress)
        stays = engine.remove_data(progress, keep_workspace=True)
    except Interrupted:
        raise
    except WrongProject as error:
        stays = (f"nothing was removed on the {engine.name} engine: {error}",)
    except (TrackbedError, OSError) as error:
        notice(f"the copy on the {engine.name} engine is still there: {error}")
        notice(f"the next `invoke up` tries again to remove it; `rm {_path(project)}` gives it up")
        return False
    for line in stays:
        notice(line)
    return True


def pending(project: Project) -> bool:
    """Whether a move has not ended yet."""
    return _path(project).exists()


def recover(project: Project, progress: ProgressReporter, notice: Notice) -> None:
    """End what an interrupted move left: the side that is not active is stopped and its copy removed.

    The active side needs nothing of the other: where that one does not answer, the note stays for the next `up`.
    """
    try:
        data = json.loads(_path(project).read_bytes())
        sides, store = {str(data["from"]), str(data["to"])}, str(data["store"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        raise TrackbedError(f"{_path(project)} is damaged", f"remove it: rm {_path(project)}") from None
    for side in sides - {project.state.engine}:
        progress.step(f"a move was interrupted; removing its copy on the {side} engine")
        # the store that was asked for is the other side's; what is removed here is found by its labels or its folder
        has = side in select.ENGINES and store in select.ENGINES[side].stores
        other = select.make(scratch(project, side, store if has else "auto"), side)
        if not clear(other, project, progress, notice):
            return
    finish(project)
