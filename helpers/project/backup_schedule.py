"""The schedule of a project's backups and how the last ones went, as files of its state folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers import timers
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.project.backup_runs import (
    CLUSTER,
    FILE,
    MADE,
    RESULT,
    Good,
    Result,
    Runs,
    Schedule,
    next_run,
    period,
)
from helpers.project.state import write_private
from helpers.settings import TABLE, Settings
from helpers.sizes import mib

LOCK = "backup-schedule.lock"
OfEngine = Callable[[], Runs | None]
FOLLOW = "`invoke backup.schedule` makes it"
KEEP = "--keep-"  # what the flags of a policy begin with


def nothing() -> Runs | None:
    """What an engine answers that runs no schedule itself."""
    return None


def mark(settings: Settings, what: str = "backup") -> str:
    """Names what runs the schedule of this project, among all of this machine."""
    digest = hashlib.sha256(str(settings.folder).encode()).hexdigest()[:8]
    return f"trackbed-{settings.project}-{what}-{digest}"


def load(folder: Path) -> Schedule | None:
    """None where there is no schedule. Raises TrackbedError for one that is damaged."""
    if (content := _content(folder / FILE)) is None:
        return None
    try:
        return Schedule(
            float(content["every"]),
            str(content["place"]),
            float(content["since"]),
            str(content["runner"]),
            int(content["minute"]),
            {str(name): int(count) for name, count in content["keep"].items()},
            {str(name): str(value) for name, value in content["environment"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TrackbedError(
            f"{folder / FILE} is damaged", "make the schedule again: `invoke backup.schedule --every=6h --to=PLACE`"
        ) from None


def scheduled_place(folder: Path) -> str:
    """Where the schedule's backups go; "" without one that can be read."""
    with suppress(TrackbedError):
        if found := load(folder):
            return found.place
    return ""


def load_result(folder: Path) -> Result:
    """An empty one where nothing ran yet, or the file tells nothing."""
    with suppress(KeyError, TypeError, ValueError, TrackbedError):
        if content := _content(folder / RESULT):
            return Result.parse(content)
    return Result()


def last_made(folder: Path) -> Good | None:
    """The last good backup that this machine made, by whatever way; None where there is none, or the file tells
    nothing."""
    with suppress(KeyError, TypeError, ValueError, TrackbedError):
        if content := _content(folder / MADE):
            return Good.parse(content)
    return None


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TrackbedError(f"{path}: {error.strerror}", "run as the user who made the project") from None
    except (ValueError, RecursionError):
        return {}


def exists(settings: Settings) -> bool:
    """Whether there is a schedule, damaged or not."""
    return (settings.folder / FILE).exists()


def forget(folder: Path) -> None:
    """The lock's file stays: a backup that is at work holds it, and a second one would begin with another."""
    for name in (FILE, RESULT):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def replacing(folder: Path) -> Iterator[None]:
    """Within it another schedule is made. Where that fails the earlier one is in the folder again, damaged or not, or
    none is; where it does not, how the earlier one went is forgotten."""
    try:
        before = (folder / FILE).read_bytes()
    except OSError:
        before = None
    try:
        yield
    except BaseException:
        if before is None:
            (folder / FILE).unlink(missing_ok=True)
        else:
            write_private(folder / FILE, before)
        raise
    (folder / RESULT).unlink(missing_ok=True)


def is_current(folder: Path, schedule: Schedule) -> bool:
    """Whether that is the schedule still: it may have been ended or made again while a backup ran."""
    try:
        return load(folder) == schedule
    except TrackbedError:
        return False


def place(settings: Settings) -> str:
    """BACKUP_TO as any later shell understands it: a folder, or a bucket. "" where it is not set."""
    named = settings.backup_to
    if not named or named.startswith("s3:"):
        return named.rstrip("/")
    return f"{str(Path(named).expanduser().absolute()).rstrip('/')}/"


def keep(settings: Settings) -> dict[str, int]:
    """The policy of the settings, by its flags."""
    rows = (row for row in TABLE if row.option.startswith(KEEP))
    return {row.option: count for row in rows if (count := getattr(settings, row.field))}


def unfollowed(settings: Settings) -> str:
    """Why the schedule that the settings ask for is not the one that is there; "" where it is, or they ask for none.

    Raises TrackbedError for one that is damaged."""
    if not settings.backup_every:
        return ""
    asked = settings.backup_every, place(settings), keep(settings)
    made = load(settings.folder)
    if made and (made.every, made.place, made.keep) == asked:
        return ""
    setting = f"BACKUP_EVERY={period(settings.backup_every)} (from {settings.origin('BACKUP_EVERY')})"
    if made is None:
        return f"{setting} asks for a schedule, and there is none"
    return f"{setting} asks for another schedule than there is: {made.words}"


def _under_way(folder: Path) -> bool:
    """Whether a scheduled backup runs now: it holds the lock, which the kernel frees however it ends."""
    try:
        with (folder / LOCK).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


@dataclass(frozen=True)
class Condition:
    """What is to be told of a schedule. ``problem`` and ``fix``: "" where all is well; ``times`` in seconds."""

    schedule: Schedule
    result: Result
    next: float
    problem: str = ""
    fix: str = ""

    @property
    def line(self) -> str:
        """All of it in one line, as of now."""
        good = self.result.good
        last = f"last good {ago(good.ended)} ago ({mib(good.size)})" if good else "it has made none yet"
        if self.result.state == "skipped":
            last += ", paused while the services were stopped"
        return (
            f"every {period(self.schedule.every)} to {self.schedule.place}; {last}; "
            f"next {datetime.fromtimestamp(self.next):%Y-%m-%d %H:%M}"
        )

    @property
    def data(self) -> dict[str, object]:
        good = self.result.good
        return {
            "every": self.schedule.every,
            "place": self.schedule.place,
            "next": self.next,
            "last_good": asdict(good) if good else None,
            "problem": self.problem,
        }


def condition(settings: Settings, of_engine: OfEngine = nothing) -> Condition | None:
    """None where there is no schedule. Raises TrackbedError for one that is damaged.

    ``of_engine``: asks an engine that may run it itself.
    """
    schedule, now = load(settings.folder), time.time()
    if schedule is None:
        return None
    runs = _runs(settings, schedule, of_engine)
    result = runs.result
    flags = f" {schedule.words}"
    again = f"`invoke backup.schedule{flags}` makes it again"
    last = result.good.ended if result.good else schedule.since
    problem = fix = ""
    if not runs.installed:
        problem, fix = f"{schedule.runner} no longer runs the schedule", again
    elif result.state == "failed":
        problem = f"the last scheduled backup failed: {result.problem}"
        fix = f"`invoke backup --to={schedule.place}` tries it now; it is tried again each hour"
    elif result.state == "done" and result.problem:
        problem, fix = (
            f"the last backup is whole, but {result.problem}",
            f"`invoke backup --to={schedule.place}` makes another and says more",
        )
    elif result.state == "running" and not runs.under_way:
        problem, fix = "the last scheduled backup was interrupted", "it is tried again within an hour"
    elif result.state != "skipped" and now > last + 2 * schedule.every and not runs.under_way:
        what = "the last good backup is" if result.good else "there is no backup, and the schedule is"
        problem = f"{what} {ago(last)} old, more than twice its interval"
        fix = f"`invoke backup --to={schedule.place}` makes one now; {again}"
    elif other := unfollowed(settings):
        problem, fix = other, FOLLOW
    return Condition(schedule, result, next_run(schedule, result, now), problem, fix)


def _runs(settings: Settings, schedule: Schedule, of_engine: OfEngine) -> Runs:
    """How its runs went, from who runs it."""
    last = load_result(settings.folder)
    if schedule.runner != CLUSTER:
        return Runs(last, timers.installed(mark(settings), schedule.runner), _under_way(settings.folder))
    runs = of_engine() or Runs(Result(), installed=False)
    if not runs.installed and last.state == "skipped":
        return Runs(last)  # the services are stopped
    return runs if runs.result.good else replace(runs, result=replace(runs.result, good=last.good))


def look(settings: Settings, of_engine: OfEngine | None) -> tuple[Finding, dict[str, object]] | None:
    """How the schedule does, in words and as data; None where there is none, or nobody can tell."""
    try:
        if of_engine is None and (made := load(settings.folder)) and made.runner == CLUSTER:
            return None  # the engine does not answer, so nobody can tell
        current, missing = condition(settings, of_engine or nothing), unfollowed(settings)
    except TrackbedError as error:
        return Finding(Level.ERROR, "backups", error.message, error.hint), {"problem": error.message}
    if current is None:
        return (Finding(Level.ERROR, "backups", missing, FOLLOW), {"problem": missing}) if missing else None
    if current.problem:
        return Finding(Level.ERROR, "backups", current.problem, current.fix), current.data
    return Finding(Level.OK, "backups", current.line), current.data


def findings(settings: Settings, of_engine: OfEngine | None = None) -> list[Finding]:
    """For `invoke doctor`; none where there is no schedule. ``of_engine``: None where the engine does not answer."""
    seen = look(settings, of_engine)
    return [seen[0]] if seen else []


def ago(then: float) -> str:
    """How long ago, as in "3 hours"."""
    minutes = max(0.0, time.time() - then) / 60
    if minutes < 120:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
