"""The schedule of a project's backups and how the last ones went, as files of its state folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from helpers import timers
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.project.state import write_private
from helpers.settings import TABLE, Settings

FILE = "backup-schedule.json"
RESULT = "backup-result.json"
LOCK = "backup-schedule.lock"
FOLLOW = "`invoke backup.schedule` makes it"
KEEP = "--keep-"  # what the flags of a policy begin with
HOUR = 3600.0
EARLY = 600.0  # seconds by which a look at the clock may come early, and counts


@dataclass(frozen=True)
class Schedule:
    """``every`` in seconds; ``since``: when it was made; ``runner``: systemd or cron; ``minute``: of each hour, when it
    looks whether a backup is due; ``keep``: the policy of the prune after it, by its flags; ``environment``: what the
    shell that made it had and a backup needs."""

    every: float
    place: str
    since: float
    runner: str
    minute: int
    keep: dict[str, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """As it is typed."""
        kept = "".join(f" {flag}={count}" for flag, count in self.keep.items())
        return f"--every={period(self.every)} --to={shlex.quote(self.place)}{kept}"

    def save(self, folder: Path) -> None:
        write_private(folder / FILE, json.dumps(asdict(self), indent=1).encode())


@dataclass(frozen=True)
class Good:
    """A backup that succeeded: when it had ended, as `restore` takes it, and its bytes."""

    ended: float
    backup: str
    size: int


@dataclass(frozen=True)
class Result:
    """How the last run went. ``state``: running, done, failed, or skipped while the project was stopped."""

    state: str = ""
    started: float = 0.0
    problem: str = ""
    good: Good | None = None

    def save(self, folder: Path) -> None:
        write_private(folder / RESULT, json.dumps(asdict(self), indent=1).encode())


def mark(settings: Settings) -> str:
    """Names what runs the schedule of this project, among all of this machine."""
    digest = hashlib.sha256(str(settings.folder).encode()).hexdigest()[:8]
    return f"trackbed-{settings.project}-backup-{digest}"


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


def load_result(folder: Path) -> Result:
    """An empty one where nothing ran yet, or the file tells nothing."""
    with suppress(KeyError, TypeError, ValueError, TrackbedError):
        if content := _content(folder / RESULT):
            good = content["good"]
            return Result(
                str(content["state"]),
                float(content["started"]),
                str(content["problem"]),
                Good(float(good["ended"]), str(good["backup"]), int(good["size"])) if good else None,
            )
    return Result()


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
    for name in (FILE, RESULT, LOCK):
        (folder / name).unlink(missing_ok=True)


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


def due(schedule: Schedule, result: Result, now: float) -> bool:
    """Whether it is time. A backup that failed, or was killed, is tried again each hour."""
    return result.state != "done" or now >= result.started + schedule.every - EARLY or now < result.started


def next_run(schedule: Schedule, result: Result, now: float) -> float:
    """When a backup begins next, in seconds since the epoch."""
    earliest = now if due(schedule, result, now) else result.started + schedule.every - EARLY
    at = earliest - earliest % HOUR + 60 * schedule.minute
    return at if at >= earliest else at + HOUR


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
        last = f"last good {ago(good.ended)} ago ({good.size / 2**20:.1f} MiB)" if good else "none yet"
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


def condition(settings: Settings) -> Condition | None:
    """None where there is no schedule. Raises TrackbedError for one that is damaged."""
    schedule, result, now = load(settings.folder), load_result(settings.folder), time.time()
    if schedule is None:
        return None
    again = f"`invoke backup.schedule {schedule.words}` makes it again"
    last = result.good.ended if result.good else schedule.since
    problem = fix = ""
    if not timers.installed(mark(settings), schedule.runner):
        problem, fix = f"{schedule.runner} no longer runs the schedule", again
    elif result.state == "failed":
        problem = f"the last scheduled backup failed: {result.problem}"
        fix = f"`invoke backup --to={schedule.place}` tries it now; it is tried again each hour"
    elif result.state == "done" and result.problem:
        problem, fix = (
            f"the last backup is whole, but {result.problem}",
            f"`invoke backup.list {schedule.place}` shows them",
        )
    elif result.state == "running" and not _under_way(settings.folder):
        problem, fix = "the last scheduled backup was interrupted", "it is tried again within an hour"
    elif result.state != "skipped" and now > last + 2 * schedule.every and not _under_way(settings.folder):
        what = "the last good backup is" if result.good else "there is no backup, and the schedule is"
        problem = f"{what} {ago(last)} old, more than twice its interval"
        fix = f"`invoke backup --to={schedule.place}` makes one now; {again}"
    elif other := unfollowed(settings):
        problem, fix = other, FOLLOW
    return Condition(schedule, result, next_run(schedule, result, now), problem, fix)


def look(settings: Settings) -> tuple[Finding, dict[str, object]] | None:
    """How the schedule does, in words and as data; None where there is none."""
    try:
        current, missing = condition(settings), unfollowed(settings)
    except TrackbedError as error:
        return Finding(Level.ERROR, "backups", error.message, error.hint), {"problem": error.message}
    if current is None:
        return (Finding(Level.ERROR, "backups", missing, FOLLOW), {"problem": missing}) if missing else None
    if current.problem:
        return Finding(Level.ERROR, "backups", current.problem, current.fix), current.data
    return Finding(Level.OK, "backups", current.line), current.data


def findings(settings: Settings) -> list[Finding]:
    """For `invoke doctor`; none where there is no schedule."""
    seen = look(settings)
    return [seen[0]] if seen else []


def period(seconds: float) -> str:
    """As it is typed: 6h, or 2d."""
    days, rest = divmod(seconds, 24 * HOUR)
    return f"{days:.0f}d" if not rest else f"{seconds / HOUR:.0f}h"


def ago(then: float) -> str:
    """How long ago, as in "3 hours"."""
    minutes = max(0.0, time.time() - then) / 60
    if minutes < 120:
        return f"{minutes:.0f} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 60 / 24:.0f} days"
