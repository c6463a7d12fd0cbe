"""The last backup of a lease, as files of the state folder: what makes it, when it begins, and how it went."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path

from helpers import timers
from helpers.errors import TrackbedError
from helpers.leases import records
from helpers.project import backup_schedule
from helpers.project.backup_runs import CLUSTER, LEAST, Runs
from helpers.project.backup_schedule import OfEngine
from helpers.settings import Settings

SETUP, RECORD, LOCK = "last-backup.json", "last-backup-result.json", "last-backup.lock"
OFTEN, SHORT = 300.0, 60.0  # seconds between two looks; where notices come minutes before the end
SAME = 120.0  # seconds by which an end that was told twice may differ
SET_UP = "`invoke up` sets it up"


@dataclass(frozen=True)
class Setup:
    """What makes it: ``runner`` (systemd, cron, cluster) looks each ``often`` seconds; ``environment``: what the shell
    that set it up had and a backup needs."""

    place: str = ""
    runner: str = ""
    often: float = OFTEN
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """How it went, for the lease that ends at ``end``. Times in seconds since the epoch, 0 for never.

    ``needs``: seconds that it is expected to take, as of ``measured``, and ``reads`` of them to be read back; ``lead``:
    how long before the end it begins.
    ``state``: of the last try, running, done or failed, with its ``problem``, since ``tried``. What follows is of the
    last one that was read back: as `restore` takes it; its moment in the ``database`` and the ``prefix`` of the
    objects; how long it ``took``, but for a notebook that gave nothing; ``later``: what came after it, in lines, as of
    ``looked``.
    """

    end: float = 0.0
    needs: float = 0.0
    lead: float = 0.0
    measured: float = 0.0
    state: str = ""
    problem: str = ""
    tried: float = 0.0
    backup: str = ""
    moment: float = 0.0
    snapshot: str = ""
    database: str = ""
    prefix: str = ""
    took: float = 0.0
    reading: float = 0.0  # bytes a second, as it was read back
    later: list[str] = field(default_factory=list)
    looked: float = 0.0
    reads: float = 0.0

    def begins(self, announced: bool = False) -> float:
        """When the first one begins; at once where the end was announced."""
        return 0.0 if announced else self.end - (self.lead or LEAST)

    def save(self, folder: Path) -> None:
        records.save(folder / RECORD, self)


def mark(settings: Settings) -> str:
    """Names what makes it, among all of this machine."""
    return backup_schedule.mark(settings, "last-backup")


def load(folder: Path) -> Setup | None:
    return records.load(folder / SETUP, Setup)


def save(folder: Path, setup: Setup) -> None:
    records.save(folder / SETUP, setup)


def record(folder: Path, end: float) -> Record:
    """How it went, for the lease that ends then; of an earlier lease only what is worth knowing for this one."""
    found = records.load(folder / RECORD, Record) or Record()
    return found if abs(found.end - end) <= SAME else Record(end, reading=found.reading)


def made(folder: Path) -> Record | None:
    """The newest one that was read back, of whichever lease; None where there is none."""
    found = records.load(folder / RECORD, Record)
    return found if found and found.backup else None


def end(folder: Path) -> None:
    """Nothing makes it any more; how it went is still known."""
    (folder / SETUP).unlink(missing_ok=True)


def forget(folder: Path) -> None:
    for name in (SETUP, RECORD):  # never the lock, which somebody may hold
        (folder / name).unlink(missing_ok=True)


def goes_first(settings: Settings, now: float) -> bool:
    """Whether it is its time: nothing else that this machine does by itself may be in its way."""
    found = records.load(settings.folder / RECORD, Record) if load(settings.folder) else None
    return found is not None and found.begins() <= now < found.end


@dataclass(frozen=True)
class Condition:
    """What is to be told of it. ``problem`` and ``fix``: "" where all is well; ``made``: there is one."""

    line: str = ""
    problem: str = ""
    fix: str = ""
    made: bool = False
    data: dict[str, object] | None = None


def heard(folder: Path, runs: Runs, end: float) -> None:
    """Keep what a pod of the cluster tells of it, for the lease that ends then; a later run that has made none yet does
    not hide one that has."""
    plain, told = Record(), runs.last
    values = {one.name: told[one.name] for one in fields(Record) if type(told.get(one.name)) is _type(plain, one.name)}
    seen = replace(plain, **values)
    if abs(seen.end - end) > SAME:  # of a lease that ended at another time
        return
    before = record(folder, seen.end)
    if seen.backup and seen.moment >= before.moment:
        replace(seen, reading=before.reading).save(folder)
    elif told and before.backup and seen.state == "failed" and seen.tried >= before.tried:
        replace(before, state="failed", problem=seen.problem).save(folder)
    elif told and not before.backup:
        seen.save(folder)


def _type(plain: Record, name: str) -> type:
    return type(getattr(plain, name))


def condition(
    settings: Settings, end: float, announced: bool, now: float, of_engine: OfEngine | None = None
) -> Condition:
    """How it stands, where a lease ends at ``end`` (0: nobody knows when). ``of_engine``: asks an engine that may make
    it itself; None where it does not answer."""
    setup = load(settings.folder)
    runs = of_engine() if of_engine and setup and setup.runner == CLUSTER else None
    if runs:
        with suppress(TrackbedError):  # another account looks: it is told all the same
            heard(settings.folder, runs, end)
    seen = record(settings.folder, end)
    if setup is None and not seen.backup:
        return Condition(problem="no last backup is set up", fix=SET_UP)
    if setup is None:
        return Condition(_made(seen), "no later one is set up", SET_UP, True, _data(seen, announced, now))
    if not _installed(settings, setup, of_engine is None, runs):
        who = f"the {CLUSTER}" if setup.runner == CLUSTER else setup.runner
        return Condition(problem=f"{who} no longer makes the last backup", fix=SET_UP)
    if not end:
        return Condition(f"its last backup to {setup.place} begins with the notice")
    begins = seen.begins(announced)
    problem = fix = ""
    if seen.state == "failed":
        problem, fix = f"its last backup failed: {seen.problem}", "`invoke backup.last` tries it now"
    elif not seen.backup and runs and runs.result.state == "failed":
        problem, fix = f"a look of the cluster failed: {runs.result.problem}", "`invoke backup.last` makes it now"
    elif not seen.backup and seen.state != "running" and begins + 2 * setup.often < now:
        problem, fix = "its last backup was to begin by now, and did not", "`invoke backup.last` makes it now"
    elif seen.problem:
        problem, fix = (
            f"its last backup is whole, but {seen.problem}",
            "`invoke backup.last` makes another and says more",
        )
    line = _made(seen) if seen.backup else _line(seen, setup, begins, now)
    return Condition(line, problem, fix, bool(seen.backup), _data(seen, announced, now))


def _installed(settings: Settings, setup: Setup, silent: bool, runs: Runs | None) -> bool:
    """Whether something still makes it. ``silent``: no engine can be asked, so that nobody can tell of a cluster's;
    ``runs`` is None for an engine that makes none, as after a move."""
    if setup.runner == CLUSTER:
        return silent or (runs is not None and runs.installed)
    return timers.installed(mark(settings), setup.runner)


def _data(seen: Record, announced: bool, now: float) -> dict[str, object]:
    """Times in seconds since the epoch."""
    return {
        "begins": seen.begins(announced) or now,
        "lead": seen.lead or LEAST,
        "backup": seen.backup,
        "moment": seen.moment or None,
        "verified": bool(seen.backup),
        "later": seen.later,
        "looked": seen.looked or None,
        "problem": seen.problem,
    }


def _made(seen: Record) -> str:
    later = "; ".join(seen.later) or f"nothing came after it until {clock(seen.looked)}"
    return f"its last backup is of {clock(seen.moment)}, read back: {seen.backup}; {later}"


def _line(seen: Record, setup: Setup, begins: float, now: float) -> str:
    if seen.state == "running":
        return f"its last backup to {setup.place} is being made"
    when = f"begins {clock(begins)}" if begins > now else "is due"
    return f"its last backup to {setup.place} {when}"


def clock(seconds: float) -> str:
    """A moment, with its day where that is not today."""
    moment = datetime.fromtimestamp(seconds)
    return (
        f"{moment:%H:%M:%S}"
        if moment.date() == datetime.fromtimestamp(time.time()).date()
        else f"{moment:%Y-%m-%d %H:%M}"
    )
