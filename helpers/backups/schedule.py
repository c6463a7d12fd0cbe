"""`invoke backup.schedule`: a timer of systemd, or a line of cron, that looks each hour whether a backup is due.

That each hour is looked is how a missed backup is made up for, and a failed one tried again.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from helpers import start_page, status, timers, topics
from helpers.backups import create, encrypted, locations, manage, running
from helpers.backups.retention import Policy
from helpers.engines import select
from helpers.engines.base import Engine, ProgressReporter
from helpers.errors import SettingError, TrackbedError
from helpers.leases import last_backup
from helpers.project import backup_runs, backup_schedule, shell_environment, state
from helpers.project.backup_runs import CLUSTER, Result, Schedule, period
from helpers.project.project import Project
from helpers.services import Notice
from helpers.settings import Settings
from helpers.timers import Timer

LIMIT = 24 * 3600  # seconds for one backup


def set_up(project: Project) -> tuple[str, ...]:
    """Have the project backed up as its settings say, in place of an earlier schedule. Gives what to tell."""
    settings = project.settings
    if not settings.backup_every:
        raise SettingError("--every is missing: say how often, as in --every=6h; or write BACKUP_EVERY=6h into .env.")
    engine = status.running(project)
    place, first_time = _place(settings, engine.runs_schedules)
    runner = CLUSTER if engine.runs_schedules else _runner(settings, place)
    minute = int(hashlib.sha256(str(settings.folder).encode()).hexdigest(), 16) % 60  # not everybody at the full hour
    environment = shell_environment.unattended()
    schedule = Schedule(
        settings.backup_every, place, time.time(), runner, minute, backup_schedule.keep(settings), environment
    )
    with _put_back(engine, settings.folder, runner), backup_schedule.replacing(settings.folder):
        schedule.save(settings.folder)
        lines = engine.start_schedule() if runner == CLUSTER else timers.install(timer(settings, minute), runner)
    lines += _remove_others(settings, runner)
    start_page.refresh(project)
    first = backup_schedule.condition(settings, engine.scheduled_runs)
    without = (
        "warning: a schedule in a cluster reads the notebook's files through JupyterLab, and an image of your own "
        f"has no address for that; `invoke backup --with-workspace --to={place}` holds them"
    )
    told = [without] if runner == CLUSTER and settings.backup_workspace and settings.jupyter_image else []
    return (*lines, *first_time, *told, *([f"backups: {first.line}"] if first else []))


@contextmanager
def _put_back(engine: Engine, folder: Path, runner: str) -> Iterator[None]:
    """Where a schedule of the cluster cannot be made within it, the cluster runs the earlier one again, or none. What
    runs one on this machine sees to that itself."""
    before = made(folder)
    try:
        yield
    except BaseException:
        if runner == CLUSTER:
            with suppress(TrackbedError):  # it does not answer: `status` tells what runs there
                of_lease = last_backup.load(folder)
                stays = any(one and one.runner == CLUSTER for one in (before, of_lease))
                engine.start_schedule() if stays else engine.end_schedule()
        raise


def made(folder: Path) -> Schedule | None:
    """The schedule that is there; None also for one that is damaged."""
    with suppress(TrackbedError):
        return backup_schedule.load(folder)
    return None


def _remove_others(settings: Settings, runner: str) -> tuple[str, ...]:
    """See that nothing but ``runner`` runs a schedule on this machine."""
    try:
        return timers.remove(backup_schedule.mark(settings), runner)
    except TrackbedError as error:
        return (f"warning: the earlier schedule still runs beside the new one: {error.message}",)


def follow(project: Project) -> tuple[str, ...]:
    """Make the schedule that .env or the environment asks for, where it is not there yet. Gives what to tell; that it
    cannot be made is no reason for a start to fail."""
    settings = project.settings
    if project.notebook_only:
        return ()
    try:
        return set_up(project) if backup_schedule.unfollowed(settings) else ()
    except TrackbedError as error:
        return (
            f"warning: BACKUP_EVERY={backup_runs.period(settings.backup_every)} "
            f"({settings.origin('BACKUP_EVERY')}): there is no such schedule: {error.message}",
            *topics.next_steps(error, "then make it: `invoke backup.schedule`"),
        )


def remove(project: Project) -> tuple[str, ...]:
    """End the schedule; nothing where there is none. Gives what to tell. The backups stay."""
    settings, name = project.settings, backup_schedule.mark(project.settings)
    removed = timers.remove(name)
    before = made(settings.folder)  # of one that is damaged the CronJob ends with the next start or stop
    if before and before.runner == CLUSTER and project.state.engine:
        removed += select.current(project).end_schedule()
    backup_schedule.forget(settings.folder)
    return removed


def _place(settings: Settings, in_bucket: bool) -> tuple[str, list[str]]:
    """Where to, as any later shell understands it, and what to tell of it.

    Raises TrackbedError where that is no repository, or not there."""
    if not settings.backup_to:
        raise SettingError("--to is missing: name a folder or s3://BUCKET/PREFIX, or write BACKUP_TO into .env.")
    return writable(settings, backup_schedule.place(settings), in_bucket)


def writable(settings: Settings, place: str, in_bucket: bool) -> tuple[str, list[str]]:
    """The place, where a timer can make backups into it, and what to tell of it. Raises TrackbedError."""
    of_bucket = place.startswith("s3:")
    for key in ("BACKUP_PASSPHRASE", *([f"BACKUP_S3_{name}" for name in locations.ACCESS] if of_bucket else [])):
        if f"TRACKBED_{key}" in os.environ:
            raise SettingError(
                f"{key} is in this shell's environment, which a schedule does not have: write it into .env (chmod 600)."
            )
    if in_bucket and not of_bucket:
        raise SettingError(
            f"--to={place}: a cluster makes backups into a bucket, and sees no folder of this machine.",
            "name s3://BUCKET/PREFIX",
        )
    store = locations.target(settings, place)
    if isinstance(store, Path):  # never: the name ends with /
        raise SettingError(f"--to={place}: must be a folder or s3://BUCKET/PREFIX.")
    with running.Flag(store):  # it can be written to
        pass
    return place, encrypted.lines(store)


def _runner(settings: Settings, place: str) -> str:
    if found := timers.runner():
        return found
    line = timers.typed(settings, "backup", f"--to={place}")
    if kept := Policy.of(settings).flags():
        line += f" && {shlex.join(timers.invoke(settings, 'backup.prune', place, *kept))}"
    raise TrackbedError(
        "neither systemd nor cron runs programs for this account, so nothing would run a schedule",
        f"install and start cron, or let what does so here run every {period(settings.backup_every)}: {line}",
    )


def timer(settings: Settings, minute: int) -> Timer:
    """What runs each hour."""
    return Timer(
        settings,
        backup_schedule.mark(settings),
        "looks each hour whether a backup is due",
        f"*-*-* *:{minute:02d}:00",
        f"{minute} * * * *",
        ("backup.schedule", "--if-due"),
        LIMIT,
    )


@dataclass(frozen=True)
class Ran:
    """What came of a look: ``lines`` to tell, and whether all is well."""

    lines: tuple[str, ...]
    ok: bool = True


def run_if_due(project: Project, progress: ProgressReporter, notice: Notice) -> Ran:
    """Back up where it is time, and keep how it went. One at a time. Raises TrackbedError where it failed."""
    folder = project.settings.folder
    schedule = backup_schedule.load(folder)
    if schedule is None:
        raise TrackbedError("there is no schedule", "`invoke backup.schedule --every=6h --to=PLACE` makes one")
    with state.lock_if_free(folder / backup_schedule.LOCK) as alone:
        if not alone:
            return Ran(("a scheduled backup is at work already",))
        return _run(project, schedule, progress, notice)


def _run(project: Project, schedule: Schedule, progress: ProgressReporter, notice: Notice) -> Ran:
    folder, now = project.settings.folder, time.time()
    before = backup_schedule.load_result(folder)
    if not backup_runs.due(schedule, before, now):
        return Ran(("no backup is due yet",))
    if last_backup.goes_first(project.settings, now):
        return Ran(("the last backup of the lease goes first",))
    if status.overview(status.running(project)).stopped:
        Result("skipped", now, "", before.good).save(folder)
        return Ran(("nothing runs, so nothing was backed up",))
    Result("running", now, "", before.good).save(folder)
    try:
        files = backup_runs.files_until(schedule, now)
        backup, manifest, health = create.create(project, schedule.place, False, progress, notice, files_until=files)
    except TrackbedError as error:
        if backup_schedule.is_current(folder, schedule):
            Result("failed", now, error.message, before.good).save(folder)
            start_page.refresh(project)
        raise
    told = (backup, create.words(manifest), *health.lines)
    if not backup_schedule.is_current(folder, schedule):  # neither its policy nor its times are in force
        return Ran((*told, "the schedule was ended or made again meanwhile, so no old backup was forgotten"))
    good = create.good(backup, manifest)
    problem = health.gone  # nothing is forgotten then, until somebody has looked
    problem = problem or health.problem(schedule.place)
    if not problem and schedule.keep:
        policy = Policy(**{flag.removeprefix(backup_runs.KEEP): count for flag, count in schedule.keep.items()})
        try:
            manage.pruned(project, schedule.place, policy, False, False, progress)
        except TrackbedError as error:
            problem = f"old backups could not be forgotten: {error.message}"
    Result("done", now, problem, good).save(folder)
    start_page.refresh(project)
    return Ran((*told, *([problem] if problem else [])), not problem)
