"""`invoke move`: everything of a project to the other engine, in one step that is taken or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers import gateway, lifecycle, start, status
from helpers.backups import create, locations, switchover, unpack
from helpers.backups.restore import WorkspaceFiles
from helpers.backups.workspace import NotTaken
from helpers.data import artifacts, move_note
from helpers.engines import select
from helpers.engines.base import MLFLOW, Engine, ProgressReporter
from helpers.errors import SettingError, TrackbedError
from helpers.project.project import Project
from helpers.services import Notice
from helpers.settings import LAST_UP
from helpers.status import Overview

WITHOUT_FILES = (
    "nothing was moved; make room and type the same command again; or put TRACKBED_BACKUP_WORKSPACE_EXCLUDE='*' before "
    "the command: then the notebook's files stay where they are"
)


def move(
    project: Project, to: str, object_store: str, progress: ProgressReporter, notice: Notice
) -> tuple[Path, Overview]:
    """Bring the project to the engine ``to``; gives the archive it was carried in, and what runs now.

    Raises TrackbedError, and then the old engine has everything as before.
    """
    asked = project.settings.engine
    status.running(project)
    if project.state.engine == to:
        raise TrackbedError(f"project {project.settings.project} is on the {to} engine already", "nothing to do")
    if asked not in ("auto", to) and project.settings.origin("ENGINE") != LAST_UP:
        raise SettingError(
            f"ENGINE={asked} (from {project.settings.origin('ENGINE')}) would contradict --to={to}: remove it first"
        )
    lifecycle.up(project, progress, notice)
    with lifecycle.changing(project, notice):
        if move_note.pending(project):
            raise TrackbedError(
                "the copy that an earlier move left is still there", "`invoke up` removes it, or says what keeps it"
            )
        old = status.running(project)
        store = object_store or ("external" if project.settings.object_store == "external" else "auto")
        target = move_note.scratch(project, to, store)
        other = select.make(target, to)
        if not (existing := other.availability()).usable:
            raise TrackbedError(f"the {to} engine cannot be used: {existing.reason}", existing.fix)
        gateway.check_settings(target.settings, other)  # before hours of copying
        if held := move_note.data_names(other):
            raise TrackbedError(
                f"the {to} engine still has data of this project: {', '.join(held)}",
                "back up what you need of it and remove it, or use another --project",
            )
        move_note.begin(project, to, store)
        try:
            archived = _carry(project, old, target, progress, notice)
        except BaseException as error:
            move_note.recover(project, progress, notice)
            start.bring_up(project, progress, notice)
            if isinstance(error, NotTaken):
                raise TrackbedError(error.message, WITHOUT_FILES) from None
            raise
        # the one step: from here on the new engine is the project's
        project.state.engine, project.state.active = to, target.state.active
        project.state.applied = target.state.applied
        project.state.remembered = {**target.state.remembered, "OBJECT_STORE": store, "ENGINE": to}
        project.state.save()
        if move_note.clear(old, project, progress, notice):
            move_note.finish(project)
        fresh = replace(project, settings=move_note.settings_on(project, to, store))
        view, _ = start.bring_up(fresh, progress, notice)
        return archived, view


def _carry(project: Project, old: Engine, target: Project, progress: ProgressReporter, notice: Notice) -> Path:
    """Archive the old side, with its server stopped, and bring it up whole on the new one."""
    progress.step(f"backing up the {old.name} engine")
    old.halt(MLFLOW, progress)  # nothing is acknowledged any more from here on
    path = locations.archive_path(project.settings, "move-")
    files = WorkspaceFiles(_has_other_files(old, select.make(target, target.state.engine)))
    _, kept = create.make(project, old, path, progress, with_workspace=files.asked)
    for line in kept.lines:
        notice(line)
    whole = unpack.verify(path, progress)
    # with the server stopped nothing comes or goes: what is missing now would be deleted with the source
    if (held := artifacts.count(old)) != whole.objects:
        raise TrackbedError(
            f"the archive has {whole.objects} artifacts, the store has {held}; nothing was moved",
            "run the same command again; if it is the same, please report it",
        )
    old.stop(progress)  # the ports are needed on the other side
    select.make(target, target.state.engine).take_workspace(progress)
    _, other = start.bring_up(target, progress, notice)
    try:
        stage = lambda members: files.stage(other, whole, members, progress)  # noqa: E731
        new = unpack.copy(target, other, path, whole, progress, notice, stage)
        switchover.switch_to(target, new, progress, notice)
    except BaseException:
        files.drop(other)
        raise
    files.place(other)
    for line in files.lines:
        notice(line)
    return path


def _has_other_files(old: Engine, new: Engine) -> bool:
    """Whether the notebook of the new engine sees another workspace; on one machine it is the same folder."""
    return old.in_cluster or new.in_cluster or old.host.url != new.host.url
