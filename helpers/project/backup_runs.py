"""A schedule of backups and how its runs went, as data: when one is due. Also in a pod, which has little else."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.errors import TrackbedError
from helpers.project.state import write_private

FILE = "backup-schedule.json"
RESULT = "backup-result.json"
MADE = "backup-made.json"
KEEP = "--keep-"  # what the flags of a policy begin with
CLUSTER = "cluster"  # the runner of a schedule that the engine itself runs
TOLD = "told: "  # what a line of a pod's log begins with that has a Result as JSON
HOUR = 3600.0
LEAST = 900.0  # seconds before the end of a lease at which its last backup begins at the latest
MARGIN = 1.5  # what it may take longer than it is expected to
LAST_LOOKS = 600.0  # seconds between two looks of a cluster at a lease that ends
EARLY = 600.0  # seconds by which a look at the clock may come early, and counts


@dataclass(frozen=True)
class Schedule:
    """``every`` in seconds; ``since``: when it was made; ``runner``: systemd, cron or cluster; ``minute``: of each
    hour, when it looks whether a backup is due; ``keep``: the policy of the prune after it, by its flags;
    ``environment``: what the shell that made it had and a backup needs."""

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

    @classmethod
    def parse(cls, content: Any) -> Good:
        """From what `asdict` gave. Raises KeyError, TypeError or ValueError."""
        return cls(float(content["ended"]), str(content["backup"]), int(content["size"]))

    def save(self, folder: Path) -> None:
        """As the last one, whoever made it: a user, a schedule, or the end of a lease. It is a good one also where the
        state folder cannot be written to."""
        with suppress(TrackbedError):
            write_private(folder / MADE, json.dumps(asdict(self), indent=1).encode())


@dataclass(frozen=True)
class Result:
    """How the last run went. ``state``: running, done, failed, or skipped while the project was stopped. ``last``: what
    a pod tells of the last backup of a lease, by the names of its record."""

    state: str = ""
    started: float = 0.0
    problem: str = ""
    good: Good | None = None
    last: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: Any) -> Result:
        """From what `asdict` gave. Raises KeyError, TypeError or ValueError."""
        good = content["good"]
        return cls(
            str(content["state"]),
            float(content["started"]),
            str(content["problem"]),
            Good.parse(good) if good else None,
            dict(content.get("last") or {}),
        )

    def save(self, folder: Path) -> None:
        write_private(folder / RESULT, json.dumps(asdict(self), indent=1).encode())


@dataclass(frozen=True)
class Runs:
    """What an engine tells of a schedule that it runs itself. ``installed``: whether it still does; ``last``: what its
    newest run tells of the last backup of a lease."""

    result: Result
    installed: bool = True
    under_way: bool = False
    last: dict[str, Any] = field(default_factory=dict)


def files_until(schedule: Schedule, now: float) -> float:
    """When a backup that begins gives the notebook's files up: whatever the notebook does, the next one is in time."""
    return now + min(max(schedule.every / 2, HOUR / 2), 12 * HOUR)


def due(schedule: Schedule, result: Result, now: float) -> bool:
    """Whether it is time. A backup that failed, or was killed, is tried again each hour."""
    if not schedule.every:  # it makes the last backup of a lease alone
        return False
    return result.state != "done" or now >= result.started + schedule.every - EARLY or now < result.started


def next_run(schedule: Schedule, result: Result, now: float) -> float:
    """When a backup begins next, in seconds since the epoch."""
    earliest = now if due(schedule, result, now) else result.started + schedule.every - EARLY
    at = earliest - earliest % HOUR + 60 * schedule.minute
    return at if at >= earliest else at + HOUR


def period(seconds: float) -> str:
    """As it is typed: 6h, or 2d."""
    days, rest = divmod(seconds, 24 * HOUR)
    return f"{days:.0f}d" if not rest else f"{seconds / HOUR:.0f}h"
