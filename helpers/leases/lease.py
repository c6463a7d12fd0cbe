"""When this machine is taken away, and what is told of that."""

from __future__ import annotations

import json
import os
import shlex
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.leases import blazar, notices
from helpers.machine import existing
from helpers.plurals import counted
from helpers.project import backup_schedule
from helpers.project.state import write_private
from helpers.settings import BY_NAME, Settings

FILE = "lease.json"
AUTO = "auto"
AGE = 300.0  # seconds for which an answer of the cloud is good enough to be told
DAY = 86400.0
LATE = 3600.0  # seconds after its end for which a notice is the same one
PLACE = "`invoke backup.schedule --every=1h --to=s3://BUCKET/PREFIX`, or to a folder that stays"


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


def current(settings: Settings, fresh: bool = False) -> Lease | None:
    """None without LEASE_END. ``fresh``: the cloud is asked even if it was lately."""
    text, now = settings.lease_end, time.time()
    if settings.tracking_uri:
        return None  # a notebook alone: the server that holds the data is elsewhere
    if text != AUTO:
        source = f"LEASE_END, {settings.origin('LEASE_END')}"
        return Lease(datetime.fromisoformat(text).timestamp(), source, asked=now) if text else None
    before = _load(settings.folder / FILE)
    if before and not fresh and 0 <= now - before.asked < AGE:
        return before
    lease = _asked(now, before or Lease())
    if settings.folder.is_dir():
        with suppress(TrackbedError):  # another account looks: it is told all the same
            write_private(settings.folder / FILE, json.dumps(asdict(lease)).encode())
    return lease


def _load(path: Path) -> Lease | None:
    """None where there is none, or the file tells nothing."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        content = json.loads(path.read_bytes())
        if all(type(content[one.name]) is type(getattr(Lease(), one.name)) for one in fields(Lease)):
            return Lease(**content)
    return None


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
    """Where the schedule backs up to; "" without one."""
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


def look(settings: Settings, here: bool = True) -> tuple[Finding, dict[str, object]] | None:
    """How the lease stands, in words and as data; None without LEASE_END. ``here``: this machine holds the data."""
    lease = current(settings)
    if lease is None:
        return None
    now, where = time.time(), place(settings)
    problem, fix = _problem(settings, lease, where, now, here)
    left = lease.end - now
    soon = bool(lease.end) and left <= DAY
    level = Level.ERROR if problem and soon else Level.WARNING if problem or soon else Level.OK
    if soon and not problem:
        fix = f"`invoke backup --to={shlex.quote(where)}` makes a last backup"
    data: dict[str, object] = {
        "end": iso(lease.end) if lease.end else None,
        "seconds_left": round(left) if lease.end else None,
        "source": lease.source,
        "announced": bool(lease.announced),
        "place": where,
        "problem": problem,
    }
    return Finding(level, "lease", "; ".join(filter(None, (_words(lease, now), problem))), fix), data


def findings(settings: Settings, here: bool = True) -> list[Finding]:
    """For `invoke doctor`; none without LEASE_END."""
    seen = look(settings, here)
    return [seen[0]] if seen else []


def _problem(settings: Settings, lease: Lease, where: str, now: float, here: bool) -> tuple[str, str]:
    """What is wrong, and what to type."""
    row = BY_NAME["LEASE_END"]
    if not lease.end and not lease.short:
        return f"LEASE_END=auto finds no end: {lease.why}", f"name it: {row.given(example(now))}"
    if lease.end and now >= lease.end:
        return "that is over", f"name the new end: {row.given(example(now))}; or forget it: {row.forgetting}"
    if not where:
        lost = "the runs, models, artifacts and secrets, and the notebook's files" if here else "the secrets and state"
        return f"nothing is backed up by itself, so {lost} on this machine are lost then", PLACE
    if here and goes_too(settings, where):
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
