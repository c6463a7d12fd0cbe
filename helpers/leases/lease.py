"""When this machine is taken away, and what is told of that."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.leases import blazar, last_backup, notices, records
from helpers.machine import existing
from helpers.plurals import counted
from helpers.project import backup_schedule
from helpers.project.backup_schedule import OfEngine
from helpers.settings import BY_NAME, Settings

FILE = "lease.json"
AUTO = "auto"
AGE = 300.0  # seconds for which an answer of the cloud is good enough to be told
DAY = 86400.0
LATE = 3600.0  # seconds after its end for which a notice is the same one
PLACE = (
    "`invoke backup.schedule --every=1h --to=s3://BUCKET/PREFIX`, or to a folder that stays, makes backups and a last "
    "one before the end; for the last one alone, write such a place as BACKUP_TO into .env and type `invoke up`"
)


@dataclass(frozen=True)
class Lease:
    """``end`` in seconds since the epoch, 0 where nobody tells it, then ``why``; ``source``: who tells it.

    ``announced``: since when a notice is there that the machine is being taken, 0 where there is none; ``short``: such
    a notice comes at most minutes before. ``asked``: when; ``openrc``: with credentials that a later look may not have.
    """

    end: float = 0.0
    source: str = ""
    announced: float = 0.0
    short: bool = False
    openrc: bool = False
    why: str = ""
    asked: float = 0.0


def current(settings: Settings, fresh: bool = False, elsewhere: str = "") -> Lease | None:
    """None without LEASE_END. ``fresh``: the cloud is asked even if it was lately. ``elsewhere``: what holds the data
    where this machine does not, in words."""
    text, now = settings.lease_end, time.time()
    if settings.tracking_uri:
        return None  # a notebook alone: the server that holds the data is elsewhere
    if text != AUTO:
        source = f"LEASE_END, {settings.origin('LEASE_END')}"
        return Lease(datetime.fromisoformat(text).timestamp(), source, asked=now) if text else None
    if elsewhere:
        return Lease(why=f"it asks the cloud of this machine, and the services run on {elsewhere}", asked=now)
    before = records.load(settings.folder / FILE, Lease)
    if before and not fresh and 0 <= now - before.asked < AGE:
        return before
    lease = _asked(now, before or Lease())
    if settings.folder.is_dir():
        with suppress(TrackbedError):  # another account looks: it is told all the same
            records.save(settings.folder / FILE, lease)
    return lease


def _asked(now: float, before: Lease) -> Lease:
    told = notices.ask(now)
    if told.end:
        same = bool(before.announced) and told.source == before.source and now < before.end + LATE
        end = before.end if told.from_now and same else told.end
        since = (before.announced if same else now) if told.announced else 0.0
        return Lease(end, told.source, since, told.short, asked=now)
    lease = Lease(short=told.short, why=told.why, asked=now)
    if blazar.configured():
        try:
            end, source = blazar.ask(now, told.server)
            return replace(lease, end=end, source=source, openrc=True)
        except blazar.Refused as error:
            lease = replace(lease, why=f"{told.why}; {error}")
    if before.openrc and before.end:  # what a shell with credentials has learnt holds until one learns more
        return replace(before, short=told.short, asked=now)
    return lease


def place(settings: Settings) -> str:
    """Where the last backup goes to: BACKUP_TO, or where the schedule backs up to; "" without either."""
    if named := backup_schedule.place(settings):
        return named
    with suppress(TrackbedError):
        if schedule := backup_schedule.load(settings.folder):
            return schedule.place
    return ""


def goes_too(settings: Settings, where: str) -> bool:
    """Whether a place is a folder on the disk of the state folder, which goes with the machine."""
    if where.startswith("s3:"):
        return False
    try:
        folder, state = (existing(path) for path in (Path(where), settings.state_dir))
        return os.stat(folder).st_dev == os.stat(state).st_dev
    except OSError:
        return False


def look(
    settings: Settings, elsewhere: str = "", of_engine: OfEngine | None = None
) -> tuple[Finding, dict[str, object]] | None:
    """How the lease stands, in words and as data; None without LEASE_END. ``elsewhere``: as `current` takes it;
    ``of_engine``: asks an engine that may make the last backup itself; None where it does not answer."""
    lease = current(settings, elsewhere=elsewhere)
    if lease is None:
        return None
    now, where = time.time(), place(settings)
    try:
        last = last_backup.condition(settings, lease.end, bool(lease.announced), now, of_engine)
    except TrackbedError as error:
        last = last_backup.Condition(problem=error.message, fix=error.hint)
    problem, fix = _problem(settings, lease, where, now, elsewhere)
    if not problem:
        problem, fix = last.problem, last.fix
    left = lease.end - now
    soon = bool(lease.end) and left <= DAY
    level = Level.ERROR if problem and soon else Level.WARNING if problem or soon else Level.OK
    if soon and not problem:
        fix = "`invoke backup.last` makes the last backup now"
    data: dict[str, object] = {
        "end": iso(lease.end) if lease.end else None,
        "seconds_left": round(left) if lease.end else None,
        "source": lease.source,
        "announced": bool(lease.announced),
        "place": where,
        "problem": problem,
        "last_backup": last.data,
    }
    words = (_words(lease, now), "" if lease.end and now >= lease.end and not last.made else last.line, problem)
    return Finding(level, "lease", "; ".join(filter(None, words)), fix), data


def findings(settings: Settings, elsewhere: str = "", of_engine: OfEngine | None = None) -> list[Finding]:
    """For `invoke doctor`; none without LEASE_END."""
    seen = look(settings, elsewhere, of_engine)
    return [seen[0]] if seen else []


def _problem(settings: Settings, lease: Lease, where: str, now: float, elsewhere: str) -> tuple[str, str]:
    """What is wrong, and what to type."""
    row = BY_NAME["LEASE_END"]
    if not lease.end and not lease.short:
        return f"LEASE_END=auto finds no end: {lease.why}", f"name it: {row.given(example(now))}"
    if lease.end and now >= lease.end:
        return "that is over", f"name the new end: {row.given(example(now))}; or forget it: {row.forgetting}"
    if not where:
        files = "" if elsewhere else ", and the notebook's files"
        lost = f"the runs, models, artifacts{' and secrets' if not elsewhere else ''}{files}"
        return f"nothing is backed up by itself, so {lost} on {elsewhere or 'this machine'} are lost then", PLACE
    if not elsewhere and goes_too(settings, where):
        return f"the backups in {where} are on this machine's own disk, and are lost with it", PLACE
    return "", ""


def _words(lease: Lease, now: float) -> str:
    if not lease.end:
        return f"no end is announced; {lease.why}" if lease.short else ""
    when = f"{datetime.fromtimestamp(lease.end).astimezone():%Y-%m-%d %H:%M %Z}"
    ended = f"ended {when}" if now >= lease.end else f"ends {when}, in {duration(lease.end - now)}"
    return f"it {ended} ({lease.source})"


def example(now: float) -> str:
    """A date as LEASE_END takes it."""
    return f"{datetime.fromtimestamp(now + 7 * DAY).astimezone():%Y-%m-%dT%H:00%z}"


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """As in "3 days 4 hours"."""
    minutes = int(max(seconds, 0.0) // 60)
    days, hours, rest = minutes // 1440, minutes // 60 % 24, minutes % 60

    if days:
        return counted(days, "day") + (f" {counted(hours, 'hour')}" if hours else "")
    if hours:
        return counted(hours, "hour") + (f" {counted(rest, 'minute')}" if rest else "")
    return counted(rest, "minute")
