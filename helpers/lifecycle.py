"""What the tasks do, one function each: load, up, down, status, by-hand preparation. No printing, no Invoke."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from helpers import browser, clone, gateway, kernels, start, start_page, status, topics
from helpers import workspace as workspace_files
from helpers.data import journal, move_note
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.errors import EngineUnavailable, TrackbedError, WrongProject
from helpers.project import credentials, failed_start, state, users
from helpers.project.backup_runs import MADE
from helpers.project.project import Project
from helpers.services import DataItem, Notice, ProgressReporter, ServiceStatus, State
from helpers.settings import BY_NAME, DEFAULT, LAST_UP, PREFIX, Settings

ALMOST_FULL = 2 << 30  # bytes


def load(flags: Mapping[str, str | None]) -> Project:
    """The project that flags, environment, .env and its own memory describe. Starts nothing."""
    settings = Settings.load(flags, os.environ, clone.ROOT / ".env", state.remembered)
    return Project(settings, state.State.load(settings.folder))


def last_tried(flags: Mapping[str, str | None]) -> tuple[Project, tuple[str, ...]]:
    """The project as the last start was told to make it, and the flags that count because it failed."""
    project = load(flags)
    given = {*project.settings.explicit, *(name.upper() for name, value in flags.items() if value is not None)}
    more = {
        name: value
        for name, value in failed_start.remembered_flags(project.settings.folder).items()
        if name not in given
    }
    if more:
        with suppress(TrackbedError):  # this version may take them no more
            return load({**flags, **more}), tuple(sorted(BY_NAME[name].option for name in more))  # values may be secret
    return project, ()


@contextmanager
def changing(project: Project, notice: Notice, patience: float = 600) -> Iterator[None]:
    """Hold the project's lock and see its state as the last holder left it. ``patience``: seconds to wait for it."""
    with state.lock(project.settings.folder / state.LOCK, patience, notice):
        fresh = state.State.load(project.settings.folder)
        project.state = fresh
        yield


def up(
    project: Project,
    progress: ProgressReporter,
    notice: Notice,
    adopt: bool = False,
    consent: kernels.Consent | None = None,
) -> status.Overview:
    """Bring everything up and return when it is usable; a no-op that only looks when nothing changed.

    ``consent``: asked before kernels that run are ended; None: that is only said.
    """
    start.check_early(project.settings)
    with changing(project, notice):
        move_note.recover(project, progress, notice)
        trial = workspace_files.Trial()
        seen, engine = start.bring_up(project, progress, notice, adopt, consent, trial)
        journal.recover(project.state, engine, progress)
        for line in trial.require(engine):
            notice(line)
        if warning := low_disk(engine):
            notice(warning)
        return seen


def start_at_boot(project: Project, enabled: bool) -> tuple[str, ...]:
    """See that a project that was started comes back with the machine, or no more. Gives what to tell."""
    if not enabled:
        return select.stay_off_at_boot(project.settings)
    return select.make(project, project.state.engine).start_at_boot()


def prepare(project: Project, progress: ProgressReporter, notice: Notice) -> Engine:
    """Everything but the start, for those who use Compose by hand: images, volumes, secrets, compose.yaml."""
    with changing(project, notice):
        engine = select.choose(project).engine
        if not engine.by_hand:
            raise TrackbedError(
                f"`invoke prepare` is for Compose by hand; this project is on the {engine.name} engine",
                "`invoke up` makes what it needs by itself",
            )
        if engine.deployment.notebook_only:
            raise TrackbedError(
                "`invoke prepare` makes what Compose starts; with TRACKING_URI that is nothing",
                "`invoke up` starts the notebook",
            )
        engine.check_foreign()
        start.begin_below_own_prefix(project, engine.settings)
        project.state.engine, project.state.clone = engine.name, str(project.settings.clone)
        project.state.node = engine.host.url
        project.state.remember(project.settings.explicit)
        project.state.save()
        engine.prepare(progress)
        start_page.attach(project, engine)
        engine.make_volumes()
        start.leave_in_clone(engine, engine.settings, notice)
        return engine


def rotate(project: Project, progress: ProgressReporter, notice: Notice) -> tuple[status.Overview, tuple[str, ...]]:
    """New secrets on a running project, all data kept. Gives what runs, and the names of those that the user gave.

    Each is tried, and its old value too. Raises TrackbedError when an old one still opens. Interrupted, the next ``up``
    takes the new ones over.
    """
    with changing(project, notice):
        start.check_database(status.running(project))  # a new password of our making would open no server of the user's
        notice("JupyterLab restarts: running kernels end")
        replaced, kept = credentials.renew(project.settings)
        fresh = Project(project.settings, project.state, replaced=replaced)  # reads them again
        return start.bring_up(fresh, progress, notice)[0], kept


def down(project: Project, progress: ProgressReporter, notice: Notice) -> tuple[str, ...]:
    """Stop the services, the notebook first; data stay. Gives what was stopped. Raises WrongProject for another's."""
    if not project.state.existed:
        if line := others(project, _services(project)):
            raise WrongProject(
                f"nothing was stopped: {line}", "`invoke up` tells whose it is, and changes nothing of it"
            )
        return ()
    with changing(project, notice):
        close_ports(project)
        engine = select.current(project)
        stopped = engine.stop(progress)
        project.state.clone = ""
        project.state.applied = {"hash": "", "identities": {}}
        project.state.surroundings = None
        project.state.save()
        return stopped


def close_ports(project: Project) -> None:
    """Close what this machine has open to services that are elsewhere, which may be gone."""
    if project.state.engine:
        select.make(project, project.state.engine).close_ports()


def _services(project: Project) -> tuple[ServiceStatus, ...]:
    """As they are now; () without an engine, which runs none."""
    try:
        return select.current(project).services()
    except TrackbedError:
        return ()


def others(project: Project, services: Iterable[ServiceStatus]) -> str:
    """What to tell where ``services`` of this project's name are there and its state folder is not."""
    if project.state.existed or all(service.state is State.MISSING for service in services):
        return ""
    return f"project {project.settings.project} is another person's, or yours without its state folder"


def busy(project: Project) -> str:
    """What computes in JupyterLab now, by name; "" where nothing does."""
    if not project.state.existed or not project.state.engine:
        return ""
    try:
        works = kernels.running(select.current(project), project.credentials()["JUPYTER_TOKEN"])
    except TrackbedError:
        return ""  # it has to be stopped all the same
    return kernels.names(work for work in works if work.busy)


def data(project: Project) -> tuple[DataItem, ...]:
    """What ``delete_data`` would delete."""
    return select.current(project).data() if project.state.existed else ()


def delete_data(project: Project, progress: ProgressReporter, notice: Notice) -> None:
    """Delete what ``data`` gives, the secrets and the memory of a stopped project. A folder as workspace stays.

    The copy that a move left on another engine goes too. Raises TrackbedError where that is not possible now.
    """
    with changing(project, notice):
        move_note.recover(project, progress, notice)
        if move_note.pending(project):
            raise TrackbedError(
                "no data were deleted: the copy that a move left on another engine is still there",
                "type the same command again when that engine answers",
            )
        for line in select.current(project).remove_data(progress):
            notice(line)
        select.stay_off_at_boot(project.settings)
        credentials.forget(project.settings)
        users.forget(project.settings)
        gateway.root_path(project.settings).unlink(missing_ok=True)
        move_note.finish(project)
        for name in (*journal.FILES, failed_start.FILE, browser.FILE, MADE, state.FILE):
            (project.settings.folder / name).unlink(missing_ok=True)
    _point_to_the_other(project.settings, notice)


def _point_to_the_other(deleted: Settings, notice: Notice) -> None:
    """Tasks without --project go back to the one project that runs from the clone, where they meant the deleted one.

    With none, or several, they go on meaning the deleted one: its backups lie there, and `up` makes it again.
    """
    # as another shell finds it: this one's variables, like its flags, may be for the deleted one
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    with suppress(TrackbedError, OSError):  # the deletion is done; `up --project=NAME` says the same
        meant = Settings.load({}, environ, deleted.env_file, {})
        others = state.of_clone(deleted.state_dir, deleted.clone)
        if meant.folder != deleted.folder or meant.origin("PROJECT") not in (LAST_UP, DEFAULT) or len(others) != 1:
            return
        place = {"project": others[0], "state_dir": str(deleted.state_dir)}
        settings = Settings.load(place, environ, deleted.env_file, state.remembered)
        other = Project(settings, state.State.load(settings.folder))
        other.only_look()
        start.leave_in_clone(select.current(other), settings, notice)
        notice(f"commands without --project are for project {settings.project} again, which runs from this clone")


def change_users(project: Project, notice: Notice, change: Callable[[], str]) -> str:
    """Change the users and hand them to a gateway that runs, whatever the settings say by now; effective within a
    second. Gives what ``change`` gives."""
    with changing(project, notice):
        created = change()
        if project.state.engine:
            try:
                lines = select.current(project).put_users()
            except EngineUnavailable as error:
                if project.is_public:
                    raise
                lines = (f"no gateway was looked for: {error.message}",)
            for line in lines:
                notice(line)
        return created


def low_disk(engine: Engine) -> str:
    """A warning when the disk that holds the data is almost full; "" when it is not."""
    facts = engine.host_facts()
    if not facts.knows_disk or facts.disk_free >= ALMOST_FULL:
        return ""
    return (
        f"warning: only {facts.disk_free / 2**30:.1f} GiB are free at {facts.disk_path}; when it is full, logging "
        "fails with an error until you free some (`invoke usage`, `invoke gc`)\n"
        f"  {topics.reference(topics.DISK)}"
    )
