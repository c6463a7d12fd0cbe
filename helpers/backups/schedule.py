"""`invoke backup.schedule`: a timer of systemd, or a line of cron, that looks each hour whether a backup is due.

That each hour is looked is how a missed backup is made up for, and a failed one tried again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from helpers import crontab, machine_failures, status, systemd
from helpers.backups import create, locations, manage, running
from helpers.backups.retention import Policy
from helpers.engines.base import ProgressReporter
from helpers.errors import SettingError, TrackbedError
from helpers.project import backup_schedule, shell_environment, state
from helpers.project.backup_schedule import HOUR, Good, Result, Schedule
from helpers.project.project import Project
from helpers.services import Notice
from helpers.settings import Settings

LIMIT = 24 * 3600  # seconds for one backup
# what else than shell_environment's a backup takes from the shell: where Docker and the cluster are, room for scratch
NAMES = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
    *("TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
)
_EVERY = re.compile(r"([1-9][0-9]{0,2})([hd])")


def parse_every(text: str) -> float:
    """Seconds. Raises SettingError."""
    match = _EVERY.fullmatch(text)
    seconds = int(match[1]) * (HOUR if match[2] == "h" else 24 * HOUR) if match else 0.0
    if not HOUR <= seconds <= 31 * 24 * HOUR:
        raise SettingError(f"--every={text}: must be a time from 1h to 31d, as in 6h or 1d.")
    return seconds


def set_up(project: Project, every: str, to: str, policy: Policy) -> tuple[str, ...]:
    """Have the project backed up to a repository from now on; an earlier schedule is replaced. Gives what to tell."""
    settings, seconds = project.settings, parse_every(every)
    if status.running(project).in_cluster:
        raise TrackbedError(
            f"a schedule for the {project.state.engine} engine is not there yet",
            f"let what starts programs on a machine of yours run: `invoke backup --to={to or 'PLACE'}`",
        )
    place = _place(settings, to)
    runner = _runner(settings)
    minute = int(hashlib.sha256(str(settings.folder).encode()).hexdigest(), 16) % 60  # not everybody at the full hour
    environment = {
        **shell_environment.current(),
        **{name: os.environ[name] for name in NAMES if os.environ.get(name)},
    }
    flags = {flag: count for flag, count in policy.flags.items() if count}
    remove(project)
    schedule = Schedule(seconds, place, time.time(), runner, minute, flags, environment)
    schedule.save(settings.folder)
    try:
        lines = _install(settings, schedule)
    except BaseException:
        with suppress(TrackbedError):
            remove(project)
        raise
    first = backup_schedule.condition(settings)
    return (*lines, *([f"backups: {first.line}"] if first else []))


def remove(project: Project) -> tuple[str, ...]:
    """End the schedule; nothing where there is none. Gives what to tell. The backups stay."""
    settings, name = project.settings, backup_schedule.mark(project.settings)
    removed = []
    timer, service = (systemd.folder() / f"{name}.{kind}" for kind in ("timer", "service"))
    if timer.exists() or service.exists():
        if timer.exists() and systemd.usable():
            systemd.ask("disable", "--now", timer.name)
        for unit in (timer, service):
            unit.unlink(missing_ok=True)
        if systemd.usable():
            systemd.ask("daemon-reload")
        removed.append(f"{timer} was removed")
    if crontab.remove(name):
        removed.append("its line in the crontab was removed")
    backup_schedule.forget(settings.folder)
    return tuple(removed)


def _place(settings: Settings, to: str) -> str:
    """Where to, as any later shell understands it. Raises TrackbedError where that is no repository, or not there."""
    if not to:
        raise SettingError("--to is missing: name a folder or s3://BUCKET/PREFIX.")
    if to.startswith("s3:"):
        for key in ("BACKUP_S3_ENDPOINT", "BACKUP_S3_REGION", "BACKUP_S3_ACCESS_KEY", "BACKUP_S3_SECRET_KEY"):
            if f"TRACKBED_{key}" in os.environ:
                raise SettingError(
                    f"{key} is in this shell's environment, which a schedule does not have: write it into .env "
                    "(chmod 600)."
                )
        place = to.rstrip("/")
    else:
        place = f"{Path(to).expanduser().absolute()}/"
    store = locations.target(settings, place)
    if isinstance(store, Path):  # never: the name ends with /
        raise SettingError(f"--to={to}: must be a folder or s3://BUCKET/PREFIX.")
    with running.Flag(store):  # it can be written to
        pass
    return place


def _runner(settings: Settings) -> str:
    if systemd.answers():
        return "systemd"
    if crontab.usable():
        return "cron"
    raise TrackbedError(
        "neither systemd nor cron runs programs for this account, so nothing would run a schedule",
        f"let what does so here run each hour: cd {shlex.quote(str(settings.clone))} && "
        f"{shlex.join(_invoke(settings, 'backup', '--to=PLACE'))}",
    )


def _invoke(settings: Settings, *words: str) -> list[str]:
    where = [f"--project={settings.project}", f"--state-dir={settings.state_dir}"]
    return [sys.executable, "-m", "invoke", *words, *where]


def command(settings: Settings) -> list[str]:
    """What runs each hour: with an environment of its own, and an end."""
    clean = ["env", "-i", f"HOME={Path.home()}", f"PATH={os.environ.get('PATH', os.defpath)}", "LC_ALL=C.UTF-8"]
    bounded = ["timeout", "--kill-after=60", str(LIMIT)]
    return ["/usr/bin/env", *bounded, *clean, *_invoke(settings, "backup.schedule", "--if-due")]


def _install(settings: Settings, schedule: Schedule) -> tuple[str, ...]:
    name = backup_schedule.mark(settings)
    if schedule.runner == "cron":
        line = f"cd {shlex.quote(str(settings.clone))} && {shlex.join(command(settings))} >/dev/null 2>&1"
        crontab.install(name, f"{schedule.minute} * * * *", line)
        return (f"a line of this account's crontab runs it; it ends with # {name}",)
    folder = systemd.folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.service").write_text(service_unit(settings))
        (folder / f"{name}.timer").write_text(timer_unit(settings, schedule.minute))
    except OSError as error:
        raise machine_failures.at(folder / name, error) from None
    systemd.ask("daemon-reload")
    systemd.ask("enable", "--now", f"{name}.timer")
    lines = (f"{folder / name}.timer runs it",)
    return lines if os.geteuid() == 0 else (*lines, "to run while you are not logged in: loginctl enable-linger")


def service_unit(settings: Settings) -> str:
    return (
        "[Unit]\n"
        f"Description=Trackbed {settings.project}: a backup, where one is due\n"
        "After=network-online.target\n"
        "Wants=network-online.target\n\n"
        "[Service]\n"
        "Type=oneshot\n"
        "Nice=10\n"
        f"WorkingDirectory={systemd.escaped(str(settings.clone))}\n"
        f"ExecStart={' '.join(systemd.word(word) for word in command(settings))}\n"
        f"TimeoutStartSec={LIMIT + 120}\n"
    )


def timer_unit(settings: Settings, minute: int) -> str:
    return (
        "[Unit]\n"
        f"Description=Trackbed {settings.project}: looks each hour whether a backup is due\n\n"
        "[Timer]\n"
        f"OnCalendar=*-*-* *:{minute:02d}:00\n"
        "Persistent=true\n\n"
        "[Install]\n"
        "WantedBy=timers.target\n"
    )


@dataclass(frozen=True)
class Ran:
    """What came of a look: ``lines`` to tell, and whether all is well."""

    lines: tuple[str, ...]
    ok: bool = True


def run_if_due(project: Project, progress: ProgressReporter, notice: Notice) -> Ran:
    """Back up where it is time, and keep how it went. One at a time. Raises TrackbedError where it failed."""
    folder = project.settings.folder
    schedule = backup_schedule.load(folder)
    if schedule is None:
        raise TrackbedError("there is no schedule", "`invoke backup.schedule --every=6h --to=PLACE` makes one")
    with ExitStack() as stack:
        try:
            stack.enter_context(state.lock(folder / backup_schedule.LOCK, wait_seconds=0))
        except TrackbedError:
            return Ran(("a scheduled backup is at work already",))
        return _run(project, schedule, progress, notice)


def _run(project: Project, schedule: Schedule, progress: ProgressReporter, notice: Notice) -> Ran:
    folder, now = project.settings.folder, time.time()
    before = backup_schedule.load_result(folder)
    if not backup_schedule.due(schedule, before, now):
        return Ran(("no backup is due yet",))
    if status.overview(status.running(project)).stopped:
        Result("skipped", now, "", before.good).save(folder)
        return Ran(("nothing runs, so nothing was backed up",))
    Result("running", now, "", before.good).save(folder)
    try:
        backup, manifest, health = create.create(project, schedule.place, False, progress, notice)
    except TrackbedError as error:
        Result("failed", now, error.message, before.good).save(folder)
        raise
    good = Good(time.time(), backup, manifest["object_bytes"] + manifest["dump_bytes"])
    problem = ""
    if health.damaged:
        problem = f"earlier backups are damaged; `invoke backup.verify {schedule.place}` names them"
    elif schedule.keep:
        policy = Policy(**{flag.removeprefix("--keep-"): count for flag, count in schedule.keep.items()})
        try:
            manage.pruned(project, schedule.place, policy, False, False, progress)
        except TrackbedError as error:
            problem = f"old backups could not be forgotten: {error.message}"
    Result("done", now, problem, good).save(folder)
    return Ran((backup, create.words(manifest), *health.lines, *([problem] if problem else [])), not problem)
