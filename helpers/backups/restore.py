"""`invoke restore`: a backup made active, here or in a project beside this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from helpers import invocations, lifecycle, second_project, status
from helpers.backups import create, damage, disk_space, last_seen, locations, salvage, switchover, unpack, workspace
from helpers.backups.repository import Snapshot
from helpers.backups.salvage import Restorable
from helpers.data import artifacts, database, workspace_files
from helpers.data.workspace_files import Staged
from helpers.engines import select
from helpers.engines.base import MLFLOW, Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.plurals import counted
from helpers.project import credentials, users
from helpers.project.project import Project
from helpers.project.state import write_private
from helpers.services import Notice, once
from helpers.settings import BY_NAME


@dataclass(frozen=True)
class Restored:
    """What a restore did: the manifest, the backup of what was there before (None: there was nothing), the people
    whose logins it brought and whether logins of the backup were left out because there are others; the names of
    what is damaged in the backup, and the file that lists them; ``files``: what to tell of the workspace."""

    manifest: dict[str, Any]
    before: Path | None
    users: tuple[str, ...] = ()
    users_left: bool = False
    left: tuple[str, ...] = ()
    left_file: Path | None = None
    files: tuple[str, ...] = ()

    @property
    def left_lines(self) -> list[str]:
        """What was damaged and left out: the first of it, and where all of it is named."""
        if not self.left:
            return []
        named = [f"    {damage.words(name)}" for name in self.left[: damage.NAMED]]
        return [
            f"left out, because damaged in the backup: {counted(len(self.left), 'file')}",
            *named,
            f"all of them are named in {self.left_file}",
        ]


def restore(
    project: Project,
    source: locations.Source,
    progress: ProgressReporter,
    notice: Notice,
    keep_before: bool = True,
    into: str = "",
    skip_damaged: bool = False,
    with_workspace: bool = True,
) -> tuple[Project, Restored]:
    """Replace what is active by a backup; the old goes only when the new one is up. ``into``: in that project instead.
    ``skip_damaged``: without the artifacts that are damaged in it.

    Gives the project that has it now. Raises TrackbedError, and then the project is as it was.
    """
    notice = once(notice)  # it starts the project twice
    if isinstance(source, Snapshot) and (gone := last_seen.missing(project.settings.folder, source.store)):
        notice(f"warning: {gone}")
    target = second_project.project(project, into) if into else project
    disk_space.check_manifest(
        select.current(target), locations.manifest(source)
    )  # reading what cannot fit may take days
    rest = unpack.verify(source, progress, skip_damaged)
    people = users.imported(salvage.small(rest, "users.json") or b"{}")
    if into:
        invocations.work_on(target.settings.project)  # also where its start fails: what to type is for that one
    lifecycle.up(target, progress, notice)
    with lifecycle.changing(target, notice):
        credentials.learn(target.settings, _secrets(rest))
        target.reread_credentials()
        files = WorkspaceFiles(with_workspace)
        before = _replace(target, source, rest, progress, notice, keep_before, files)
    brought = _bring_in(target, people, notice)
    left = bool(people) and not brought and users.load(target.settings) != people
    return target, Restored(
        rest.manifest, before, brought, left, rest.left, _write_left(target, rest.left), tuple(files.lines)
    )


class WorkspaceFiles:
    """The workspace of a backup on its way into the project's: staged with the copy, shown with the switch."""

    def __init__(self, asked: bool) -> None:
        self.asked, self.staged, self.lines = asked, cast("Staged | None", None), list[str]()

    def stage(
        self, engine: Engine, rest: Restorable, members: Iterator[unpack.Member], progress: ProgressReporter
    ) -> None:
        if not self.asked:
            return
        if workspace_files.present(engine):
            self.staged = workspace.stage(engine, rest, members, progress)
        else:
            self.lines.append("the workspace in the backup was left out: this project has no notebook")

    def place(self, engine: Engine) -> None:
        """The copy is active: what goes wrong here is told, and takes nothing back."""
        if self.staged is None:
            return
        try:
            self.lines += workspace.place(engine, self.staged)
        except TrackbedError as error:
            self.lines.append(
                f"warning: {error.message}; its files are in the hidden folder {self.staged.folder} of the workspace, "
                "until the next restore"
            )

    def drop(self, engine: Engine) -> None:
        if self.staged is not None:
            with suppress(TrackbedError):
                workspace_files.drop(engine)


def _write_left(project: Project, names: tuple[str, ...]) -> Path | None:
    """The whole list of what a restore left out, beside the archives."""
    if not names:
        return None
    path = locations.archive_path(project.settings, "left-out-").with_suffix(".txt")
    write_private(path, "".join(f"{damage.words(name)}\n" for name in names).encode("utf-8", "backslashreplace"))
    return path


def _secrets(rest: Restorable) -> dict[str, str]:
    """The secrets in a backup: what its rows are encrypted with is needed once, to encrypt them again."""
    try:
        data = json.loads(salvage.small(rest, "secrets.json") or b"{}")
    except (ValueError, RecursionError):
        raise TrackbedError("the secrets in the backup are no secrets", "use another backup") from None
    return {str(name): str(value) for name, value in data.items()} if isinstance(data, dict) else {}


def _replace(
    project: Project,
    source: locations.Source,
    rest: Restorable,
    progress: ProgressReporter,
    notice: Notice,
    keep_before: bool,
    files: WorkspaceFiles | None = None,
) -> Path | None:
    """Make a verified backup active; gives the archive of what was there before."""
    engine, files = status.running(project), files or WorkspaceFiles(False)
    if project.aside and not is_empty(project, engine):
        raise TrackbedError(
            f"project {project.settings.project} has data of its own; nothing was changed",
            f"--project={project.settings.project} instead of --into replaces them; or choose another",
        )
    try:
        new = unpack.copy(
            project,
            engine,
            source,
            rest,
            progress,
            notice,
            lambda members: files.stage(engine, rest, members, progress),
        )
        for line in unpack.put_to_sleep(engine, new["database"]) if rest.manifest["schema"] else ():
            notice(line)
        before = _before(project, engine, progress) if keep_before else None
        engine.halt(MLFLOW, progress)
        switchover.switch_to(project, new, progress, notice)
    except BaseException:
        files.drop(engine)
        switchover.roll_back(project, engine, progress, notice)
        raise
    files.place(engine)
    _take_settings(project, unpack.settings_of(rest), notice)
    return before


def _take_settings(project: Project, archived: dict[str, str], notice: Notice) -> None:
    """The settings of a backup that is active now, where there are none: one that did not come up leaves nothing."""
    taken = {name: value for name, value in sorted(archived.items()) if name not in project.state.remembered}
    if not taken:
        return
    project.state.remembered = {**project.state.remembered, **taken}
    project.state.save()
    notice(
        f"settings of the backup, from the next start on: {', '.join(f'{n}={v}' for n, v in taken.items())}; to "
        f"forget them: {', '.join(BY_NAME[name].forgetting for name in taken)}"
    )


def _bring_in(project: Project, people: dict[str, users.Login], notice: Notice) -> tuple[str, ...]:
    """The logins of a backup, where there is nobody yet."""
    if not people or users.load(project.settings):
        return ()
    return tuple(
        lifecycle.change_users(project, notice, lambda: " ".join(users.restore(project.settings, people))).split()
    )


def is_empty(project: Project, engine: Engine) -> bool:
    """Whether nothing was ever logged."""
    held = database.contents(engine, project.state.active["database"])
    return not held.runs and int(held.tables.get("experiments", ["0"])[0]) <= 1 and not artifacts.total(engine)[0]


def _before(project: Project, engine: Engine, progress: ProgressReporter) -> Path | None:
    """Stop the server, so that nothing is acknowledged any more, and back up what it holds."""
    engine.halt(MLFLOW, progress)
    if is_empty(project, engine):
        return None
    progress.step("backing up the current data")
    path = locations.archive_path(project.settings, "before-")
    create.make(project, engine, path, progress)
    return path
