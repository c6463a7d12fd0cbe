"""One line of this user's crontab, known by what it ends with. The other lines are nobody's business here."""

from __future__ import annotations

import shutil
from contextlib import suppress

import psutil

from helpers import commands
from helpers.errors import TrackbedError

LONGEST = 998  # bytes of a command in Debian's cron
DAEMONS = ("cron", "crond", "fcron", "cronie")


def usable() -> bool:
    """Whether there is a crontab, and a program that runs what it says."""
    if shutil.which("crontab") is None:
        return False
    return any(process.info["name"] in DAEMONS for process in psutil.process_iter(["name"]))


def install(mark: str, schedule: str, command: str) -> None:
    """Have ``command`` run at the times of ``schedule``, in place of the line of that mark. Raises TrackbedError,
    and then the crontab is as before."""
    said = f"{command} {_ending(mark)}".replace("%", "\\%")
    if len(said.encode()) > LONGEST:
        raise TrackbedError(
            f"the line for the crontab has {len(said.encode())} bytes, and cron takes {LONGEST}",
            "most of it is PATH: type the same command again in a shell where that is shorter, as in "
            "`env PATH=/usr/local/bin:/usr/bin:/bin` before it",
        )
    before = _lines()
    try:
        _write([*(one for one in before if not one.endswith(_ending(mark))), f"{schedule} {said}"])
    except BaseException:
        with suppress(TrackbedError):
            if _lines() != before:
                _write(before)
        raise


def remove(mark: str) -> bool:
    """See that there is no line of that mark; whether there was one. Raises TrackbedError."""
    if shutil.which("crontab") is None:
        return False
    before = _lines()
    left = [line for line in before if not line.endswith(_ending(mark))]
    if len(left) == len(before):
        return False
    _write(left)
    return True


def installed(mark: str) -> bool:
    return shutil.which("crontab") is not None and any(line.endswith(_ending(mark)) for line in _lines())


def _ending(mark: str) -> str:
    return f"# {mark}"


def _lines() -> list[str]:
    done = commands.attempt(["crontab", "-l"], 30)
    if done.code and "no crontab" in done.stderr.lower():
        return []
    if done.code:  # never taken for an empty one: others' lines would be lost
        raise TrackbedError(f"crontab -l failed: {commands.last_line(done.stderr)}", "may this account use cron?")
    return done.stdout.splitlines()


def _write(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    done = commands.attempt(["crontab", "-"], 30, text.encode())
    if done.code or _lines() != lines:
        raise TrackbedError(
            f"the crontab could not be written: {commands.last_line(done.stderr)}", "may this account use cron?"
        )
