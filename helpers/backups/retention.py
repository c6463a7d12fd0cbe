"""Which backups a policy keeps, with the words and the rules of `restic forget`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from helpers.backups.repository import stamp

if TYPE_CHECKING:
    from helpers.settings import Settings

DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Policy:
    """How many to keep: the last ones, and the last one of so many days, weeks and months that have one. In UTC."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        return cls(
            settings.backup_keep_last,
            settings.backup_keep_daily,
            settings.backup_keep_weekly,
            settings.backup_keep_monthly,
        )

    def flags(self) -> list[str]:
        """What names it on a command line."""
        counts = {
            "--keep-last": self.last,
            "--keep-daily": self.daily,
            "--keep-weekly": self.weekly,
            "--keep-monthly": self.monthly,
        }
        return [f"{name}={count}" for name, count in counts.items() if count]

    @property
    def empty(self) -> bool:
        return not (self.last or self.daily or self.weekly or self.monthly)


WRONG_TIME = "its time cannot be right"  # why a backup stays that is not `plausible`


def made(name: str) -> datetime:
    """The time in a backup's name."""
    return datetime.strptime(stamp(name), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def plausible(name: str, written: float) -> bool:
    """Whether a backup may have been made at the time in its name; ``written``: its file, in seconds.

    One of a machine whose clock was ahead would be the newest for years, and each new backup would go in its place.
    """
    try:
        return made(name).timestamp() < written + DAY
    except ValueError:
        return False


_PERIODS: dict[str, Callable[[datetime], object]] = {
    "daily": lambda time: time.date(),
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
}


def reasons(names: Sequence[str], policy: Policy) -> dict[str, list[str]]:
    """Of each of these backups, which are of one project, why it stays; [] where nothing keeps it."""
    newest_first = sorted(names, key=stamp, reverse=True)
    result: dict[str, list[str]] = {name: [] for name in newest_first}
    for name in newest_first[: policy.last]:
        result[name].append("last")
    for word, period in _PERIODS.items():
        left, previous = getattr(policy, word), None
        for name in newest_first:
            if not left:
                break
            current = period(made(name))
            oldest = name == newest_first[-1]  # stays until there are enough periods, else a short history shrinks
            if current != previous or oldest:
                result[name].append(word if current != previous else f"oldest, {word}")
                previous, left = current, left - 1
    return result
