"""A task that this machine runs again and again by itself: a timer of systemd, else a line of cron."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from helpers import crontab, machine_failures, systemd
from helpers.errors import TrackbedError
from helpers.settings import Settings

AGAIN = "nothing was changed; once systemd does that, type the same command again"


@dataclass(frozen=True)
class Timer:
    """``name``: among all of this machine; ``what``: in words; ``calendar``, ``cron``: when, as systemd and as cron
    have it; ``task``: as `invoke` takes it; ``limit``: seconds after which a run is ended."""

    settings: Settings
    name: str
    what: str
    calendar: str
    cron: str
    task: tuple[str, ...]
    limit: int

    @property
    def command(self) -> list[str]:
        """What runs: with an environment of its own, and an end."""
        folders = dict.fromkeys(os.environ.get("PATH", os.defpath).split(os.pathsep))  # a shell names some twice
        clean = ["env", "-i", f"HOME={Path.home()}", f"PATH={os.pathsep.join(folders)}", "LC_ALL=C.UTF-8"]
        bounded = ["timeout", "--kill-after=60", str(self.limit)]
        return ["/usr/bin/env", *bounded, *clean, *invoke(self.settings, *self.task)]

    @property
    def service_unit(self) -> str:
        return (
            "[Unit]\n"
            f"Description=Trackbed {self.settings.project}: {self.what}\n"
            f"After=network-online.target {systemd.on_boot(self.settings.project)}\n"
            "Wants=network-online.target\n\n"
            "[Service]\n"
            "Type=oneshot\n"
            "Nice=10\n"
            f"WorkingDirectory={systemd.escaped(str(self.settings.clone))}\n"
            f"ExecStart={' '.join(systemd.word(word) for word in self.command)}\n"
            f"TimeoutStartSec={self.limit + 120}\n"
        )

    @property
    def timer_unit(self) -> str:
        return (
            "[Unit]\n"
            f"Description=Trackbed {self.settings.project}: {self.what}\n\n"
            "[Timer]\n"
            f"OnCalendar={self.calendar}\n"
            "AccuracySec=1s\n"
            "Persistent=true\n\n"
            "[Install]\n"
            "WantedBy=timers.target\n"
        )


def invoke(settings: Settings, *words: str) -> list[str]:
    """A task of this project, from any shell in the clone."""
    where = [f"--project={settings.project}", f"--state-dir={settings.state_dir}"]
    return [sys.executable, "-m", "invoke", *words, *where]


def typed(settings: Settings, *words: str) -> str:
    """The same as a line for something else that runs programs."""
    return f"cd {shlex.quote(str(settings.clone))} && {shlex.join(invoke(settings, *words))}"


def runner() -> str:
    """What would run a timer here: systemd or cron; "" where neither does."""
    if systemd.answers():
        return "systemd"
    return "cron" if crontab.usable() else ""


def install(timer: Timer, runner: str) -> tuple[str, ...]:
    """Have it run from now on, in place of an earlier one of that name. Gives what to tell. Raises TrackbedError, and
    then the earlier one runs as before."""
    if runner == "cron":
        line = f"cd {shlex.quote(str(timer.settings.clone))} && {shlex.join(timer.command)} >/dev/null 2>&1"
        crontab.install(timer.name, timer.cron, line)
        return (f"a line of this account's crontab runs it; it ends with # {timer.name}",)
    folder = systemd.folder()
    units = {f"{timer.name}.service": timer.service_unit, f"{timer.name}.timer": timer.timer_unit}
    before = {name: _text(folder / name) for name in units}
    try:
        _write(folder, units)
        systemd.ask("daemon-reload", hint=AGAIN)
        systemd.ask("enable", "--now", f"{timer.name}.timer", hint=AGAIN)
    except BaseException:
        _put_back(folder, before)
        raise
    lines = (f"{folder / timer.name}.timer runs it",)
    return lines if systemd.lingers() else (*lines, "to run while you are not logged in: loginctl enable-linger")


def _text(unit: Path) -> str | None:
    try:
        return unit.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise machine_failures.at(unit, error) from None


def _write(folder: Path, units: Mapping[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in units.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise machine_failures.at(folder / name, error) from None


def _put_back(folder: Path, before: Mapping[str, str | None]) -> None:
    """These units as they were, as far as that works now."""
    timer = next(name for name in before if name.endswith(".timer"))
    if before[timer] is None:
        with suppress(TrackbedError):
            systemd.ask("disable", "--now", timer)
    with suppress(TrackbedError, OSError):
        _write(folder, {name: text for name, text in before.items() if text is not None})
        for name in (name for name, text in before.items() if text is None):
            (folder / name).unlink(missing_ok=True)
        systemd.ask("daemon-reload")
        if before[timer] is not None:
            systemd.ask("enable", "--now", timer)


def remove(name: str, stays: str = "") -> tuple[str, ...]:
    """See that there is none of that name, but perhaps that of the runner ``stays``. Gives what to tell."""
    removed = []
    timer, service = (systemd.folder() / f"{name}.{kind}" for kind in ("timer", "service"))
    if stays != "systemd" and (timer.exists() or service.exists()):
        if timer.exists() and systemd.usable():
            systemd.ask("disable", "--now", timer.name)
        for unit in (timer, service):
            unit.unlink(missing_ok=True)
        if systemd.usable():
            systemd.ask("daemon-reload")
        removed.append(f"{timer} was removed")
    if stays != "cron" and crontab.remove(name):
        removed.append("its line in the crontab was removed")
    return tuple(removed)


def installed(name: str, runner: str) -> bool:
    """Whether what runs it is still on this machine."""
    return crontab.installed(name) if runner == "cron" else (systemd.folder() / f"{name}.timer").exists()
