"""`invoke backup.last`: the last backup of a lease, which a timer begins in time, reads back, and makes again while
something came after it and there is time for it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from helpers import process_table, start_page, status, timers, topics, waiting
from helpers.backups import create, damage, later, lead, locations, schedule
from helpers.backups.meters import Meter
from helpers.backups.needed import Needed
from helpers.backups.repository import Snapshot
from helpers.backups.schedule import Ran
from helpers.engines.base import Engine, ProgressReporter
from helpers.errors import SettingError, TrackbedError
from helpers.leases import last_backup, lease
from helpers.leases.last_backup import OFTEN, SHORT, Record, Setup, clock
from helpers.leases.lease import DAY, Lease
from helpers.project import backup_schedule, shell_environment, state
from helpers.project.backup_runs import CLUSTER, HOUR, LAST_LOOKS, MARGIN
from helpers.project.project import Project
from helpers.services import Notice
from helpers.timers import Timer

LIMIT = 24 * 3600  # seconds for one run
WATCH = 50.0  # seconds of each minute that a run looks for a notice that comes shortly before the end
PAUSE = 5.0
UNTOLD = "nobody can tell yet what came after it"


# what makes it


def follow(project: Project, engine: Engine | None = None) -> tuple[str, ...]:
    """Have the last backup made where this project's lease ends and there is a place for it, else by nothing. Gives
    what to tell; that it cannot be set up is no reason for a start to fail."""
    if project.notebook_only:
        return ()
    try:
        if told := _follow(project, engine or status.running(project)):
            start_page.refresh(project)
        return told
    except TrackbedError as error:
        return (
            f"warning: no last backup of the lease is set up: {error.message}",
            *topics.next_steps(error),
        )


def _follow(project: Project, engine: Engine) -> tuple[str, ...]:
    settings, elsewhere = project.settings, status.elsewhere(engine)
    ends = lease.current(settings, elsewhere=elsewhere)
    place = lease.place(settings)
    stays = bool(place) and (bool(elsewhere) or not lease.goes_too(settings, place))
    if ends is None or not stays or not (ends.end or ends.short) or 0 < ends.end <= time.time():
        in_cluster, told = _is_in_cluster(settings.folder), remove(project)
        if in_cluster and engine.runs_schedules:  # a schedule goes on without it
            made = schedule.made(settings.folder)
            lines = engine.start_schedule() if made and made.runner == CLUSTER else engine.end_schedule()
            return (*told, *lines)
        return told
    often = SHORT if ends.short else OFTEN
    if engine.runs_schedules:
        return _follow_in_cluster(project, engine, place)
    before = last_backup.load(settings.folder)
    same = before and (before.place, before.often) == (place, often)  # another shell makes no difference
    if same and before and timers.installed(last_backup.mark(settings), before.runner):
        return ()
    _, about = schedule.writable(settings, place, False)
    runner = timers.runner()
    if not runner:
        raise TrackbedError(
            "neither systemd nor cron runs programs for this account",
            f"install and start cron, or let what does so here run every {often / 60:.0f} minutes: "
            f"{timers.typed(settings, 'backup.last', '--if-due')}",
        )
    _, *more = timers.install(timer(project, often), runner)
    timers.remove(last_backup.mark(settings), runner)
    last_backup.save(settings.folder, Setup(place, runner, often, shell_environment.unattended()))
    line = f"{runner} makes a last backup to {place} before the lease ends; it looks every {_minutes(often)}"
    return (line, *more, *about)


def _follow_in_cluster(project: Project, engine: Engine, place: str) -> tuple[str, ...]:
    """Its schedule, or a CronJob for this alone, makes it."""
    settings, setup = project.settings, Setup(place, CLUSTER, LAST_LOOKS)
    before = last_backup.load(settings.folder)
    runs = engine.scheduled_runs() if before == setup else None
    if runs and runs.installed:
        return ()
    _, about = schedule.writable(settings, place, True)
    removed = timers.remove(last_backup.mark(settings))
    last_backup.save(settings.folder, setup)
    try:
        lines = engine.start_schedule()
    except TrackbedError:
        last_backup.end(settings.folder)
        raise
    line = f"the cluster makes a last backup to {place} before the lease ends; it looks every {_minutes(LAST_LOOKS)}"
    return (*removed, *lines, line, *about)


def _is_in_cluster(folder: Path) -> bool:
    setup = last_backup.load(folder)
    return setup is not None and setup.runner == CLUSTER


def _minutes(seconds: float) -> str:
    return "minute" if seconds <= 60 else f"{seconds / 60:.0f} minutes"


def timer(project: Project, often: float) -> Timer:
    """What looks whether it is time."""
    minutes = round(often / 60)
    each = "*" if minutes == 1 else f"*/{minutes}"
    return Timer(
        project.settings,
        last_backup.mark(project.settings),
        "makes the last backup of a lease",
        f"*-*-* *:{'*' if minutes == 1 else f'0/{minutes}'}:00",
        f"{each} * * * *",
        ("backup.last", "--if-due"),
        LIMIT,
    )


def remove(project: Project) -> tuple[str, ...]:
    """See that nothing makes it; nothing where it was not set up. Gives what to tell. The backups stay."""
    if last_backup.load(project.settings.folder) is None:
        return ()
    removed = timers.remove(last_backup.mark(project.settings))
    last_backup.end(project.settings.folder)
    return ("no last backup of the lease is made any more", *removed)


# making it


def run_if_due(project: Project, progress: ProgressReporter, notice: Notice) -> Ran:
    """What the timer runs. One at a time. Raises TrackbedError where it failed."""
    settings = project.settings
    setup = last_backup.load(settings.folder)
    if setup is None:
        raise TrackbedError(
            "no last backup is set up", "`invoke up` sets it up on a machine with LEASE_END and BACKUP_TO"
        )
    with state.lock_if_free(settings.folder / last_backup.LOCK) as alone:
        if not alone:
            return Ran(("the last backup is at work already",))
        ends = waiting.until(lambda: _near(project), WATCH, PAUSE) if setup.often <= SHORT else _near(project)
        if ends is None:
            return Ran(("it is not time for the last backup of the lease",))
        return _run(project, ends, setup.place, progress, notice)


def run(project: Project, progress: ProgressReporter, notice: Notice) -> Ran:
    """What a user types: the last backup now, whenever the lease ends. Raises TrackbedError where it failed."""
    place = lease.place(project.settings)
    if not place:
        raise SettingError("no place for the last backup: write BACKUP_TO=s3://BUCKET/PREFIX, or a folder, into .env.")
    engine = status.running(project)
    ends = lease.current(project.settings, fresh=True, elsewhere=status.elsewhere(engine))
    if ends is None:
        raise SettingError(
            "LEASE_END is missing, so there is no last backup.",
            "`invoke backup` makes one; or `invoke up --lease-end=DATE`",
        )
    with state.lock_if_free(project.settings.folder / last_backup.LOCK) as alone:
        if not alone:
            raise TrackbedError("the last backup is at work already", "`invoke status` shows when it is done")
        seen = last_backup.record(project.settings.folder, ends.end)
        return _back_up(project, engine, ends, seen, place, progress, notice)


def _near(project: Project) -> Lease | None:
    """The lease where its end is so near that more has to be looked at; None where it is not, or it is over."""
    settings, elsewhere = project.settings, project.state.node
    ends = lease.current(settings, fresh=True, elsewhere=elsewhere)
    if ends is None or not ends.end:
        return None
    left = ends.end - time.time()
    seen = last_backup.record(settings.folder, ends.end)
    return ends if left > 0 and (ends.announced or left <= max(DAY, 3 * seen.lead) or not seen.measured) else None


def _run(project: Project, ends: Lease, place: str, progress: ProgressReporter, notice: Notice) -> Ran:
    folder, engine = project.settings.folder, status.running(project)
    if status.overview(engine).stopped:
        return Ran(("nothing runs, so nothing was backed up",))
    seen = last_backup.record(folder, ends.end)
    begins = seen.begins(bool(ends.announced))
    if not seen.backup and time.time() < begins and time.time() >= seen.measured + HOUR:
        try:
            seen = _measured(project, engine, seen, place)
        except TrackbedError as error:
            replace(seen, state="failed", problem=error.message, tried=time.time()).save(folder)
            raise
        seen.save(folder)
        begins = seen.begins()
    if time.time() < begins:
        return Ran((f"the last backup of the lease begins {clock(begins)}",))
    if _is_of(seen, project):
        try:
            seen = _looked(project, engine, seen, progress)
        except locations.NoBackup:
            seen = replace(seen, backup="", later=[], state="failed", problem=f"{seen.backup} is not there any more")
            seen.save(folder)
    if _is_of(seen, project):
        if not seen.later:
            return Ran((f"nothing came after the last backup of the lease, {seen.backup}",))
        if time.time() + MARGIN * seen.took > ends.end:
            return Ran((f"there is no time for another backup after {seen.backup}", *seen.later))
    return _back_up(project, engine, ends, seen, place, progress, notice)


def _is_of(seen: Record, project: Project) -> bool:
    """Whether there is a last backup of what is active now."""
    active = project.state.active
    return bool(seen.backup) and (seen.database, seen.prefix) == (active["database"], active["prefix"])


def _measured(project: Project, engine: Engine, seen: Record, place: str) -> Record:
    store = locations.target(project.settings, place)
    assert not isinstance(store, Path)
    found = lead.newest(store, project)
    size, manifest = lead.size(project, engine), found[1] if found else None
    needs, reads = (one(size, manifest, seen.reading) for one in (lead.needs, lead.reads))
    return replace(seen, needs=needs, reads=reads, lead=lead.lead(needs), measured=time.time(), state="", problem="")


def _back_up(
    project: Project,
    engine: Engine,
    ends: Lease,
    seen: Record,
    place: str,
    progress: ProgressReporter,
    notice: Notice,
) -> Ran:
    folder, begun = project.settings.folder, time.time()
    seen = replace(seen, state="running", tried=begun, problem="")
    seen.save(folder)
    try:
        patience = lead.waits_until(ends.end, seen.needs) - begun if ends.end else HOUR
        with _first(folder, max(patience, 0.0), notice):
            left = max(ends.end - time.time(), lead.ENDING) if ends.end else HOUR
            files = lead.files_until(ends.end, seen.reads, time.time()) if ends.end else math.inf
            backup, manifest, health = create.create(project, place, False, progress, notice, left, files)
        source = locations.source(project.settings, backup)
        assert isinstance(source, Snapshot)
        read, seconds = _read_back(source, seen.backup if _is_of(seen, project) else "", project, progress)
    except TrackbedError as error:
        replace(seen, state="failed", problem=error.message).save(folder)
        start_page.refresh(project)
        raise
    moment, snapshot = later.moment(manifest)
    active = project.state.active
    done = replace(
        seen,
        state="done",
        problem=health.problem(place),
        backup=backup,
        moment=moment,
        snapshot=snapshot,
        database=active["database"],
        prefix=active["prefix"],
        took=max(time.time() - begun - lead.wasted(manifest), 0.0),
        reading=read / seconds if read >= lead.ENOUGH else seen.reading,
        later=[UNTOLD],
        looked=time.time(),
    )
    done.save(folder)  # it is one, whatever the last look says
    done = _looked(project, engine, done, progress)
    start_page.refresh(project)
    told = done.later or [f"nothing came after it until {clock(done.looked)}"]
    lines = (backup, f"the last backup of the lease: {create.words(manifest)}; read back", *told, *health.lines)
    return Ran(lines, not health.bad)


def _looked(project: Project, engine: Engine, seen: Record, progress: ProgressReporter) -> Record:
    """Keep what came after the last backup; where that cannot be told, keep this, and raise TrackbedError."""
    try:
        seen = replace(seen, later=_came_later(project, engine, seen, progress), looked=time.time())
    except TrackbedError as error:
        seen = replace(seen, later=[f"{UNTOLD}: {error.message}"])
        raise
    finally:
        seen.save(project.settings.folder)
    return seen


def _came_later(project: Project, engine: Engine, seen: Record, progress: ProgressReporter) -> list[str]:
    source = locations.source(project.settings, seen.backup)
    assert isinstance(source, Snapshot)
    progress.step("what came after the last backup")
    return list(later.written(engine, seen.database, seen.snapshot, source, progress))


def _read_back(backup: Snapshot, before: str, project: Project, progress: ProgressReporter) -> tuple[int, float]:
    """Read what a backup needs, and an earlier one that was read back did not. Gives bytes and seconds.

    Raises TrackbedError where something is not as it was written."""
    meter, begun = Meter(progress, "reading back"), time.monotonic()
    size = count = 0
    with Needed() as known, Needed() as needed:
        if before:
            with suppress(TrackbedError):  # it was pruned: all is read
                earlier = locations.source(project.settings, before)
                if isinstance(earlier, Snapshot):
                    known.add(earlier)
        needed.add(backup)
        expected = (one for one in needed if one[0] not in known)
        for path, length, wrong in damage.read_back(backup.store, expected):
            if wrong:
                raise TrackbedError(
                    f"{backup} cannot be read back: {path} {wrong}",
                    f"`invoke backup.verify {backup.store} --repair` stores it again",
                )
            size, count = size + length, count + 1
            meter.report(size, count, 0)
    return size, max(time.monotonic() - begun, 0.001)


@contextmanager
def _first(folder: Path, patience: float, notice: Notice) -> Iterator[None]:
    """Keep scheduled backups out meanwhile: one that is at work is waited for, and then ended, which leaves the earlier
    ones as they are."""
    path = folder / backup_schedule.LOCK
    with ExitStack() as stack:
        try:
            stack.enter_context(state.lock(path, patience, notice))
        except state.AtWork:
            if pids := _holders(path):
                notice(lead.GOES_FIRST)
                process_table.end(pids, lead.ENDING, {})
            stack.enter_context(state.lock(path, lead.ENDING, notice))
        yield


def _holders(path: Path) -> list[int]:
    """The process that holds this lock: it names itself in the file, and has that open."""
    try:
        content: Any = json.loads(path.read_bytes())
        process = psutil.Process(int(content["pid"]))
        opened = {one.path for one in process.open_files()}
        return [process.pid] if str(path.resolve()) in opened else []  # the kernel names no links
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return []
