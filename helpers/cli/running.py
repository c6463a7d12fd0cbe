"""Start, stop, look before and prove after: up, jupyter, prepare, down, doctor, check."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helpers import console, gateway, invocations, kernels, lifecycle, status, topics
from helpers.cli import options
from helpers.cli.status import show_finding, show_ready, show_services
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.errors import FAILED, EngineUnavailable, SettingError, TrackbedError
from helpers.findings import Level
from helpers.leases import last_backup, lease
from helpers.line_breaks import ITEM
from helpers.project import backup_schedule, users
from helpers.project.project import Project
from helpers.services import DataItem
from helpers.settings.flags import Flags


@dataclass(frozen=True)
class Start:
    """How a start is done: flags of `up` and `jupyter` that are no settings."""

    dry_run: bool = False
    name_prefix: str | None = None
    adopt: bool = False
    yes: bool = False
    from_bundle: str | None = None

    def refuse(self) -> None:
        """SettingError where a flag would do nothing."""
        options.refuse(
            bool(self.name_prefix and not self.dry_run),
            "--name-prefix",
            "without --dry-run",
            f"to run a second project: --project={self.name_prefix} with ports of its own",
        )
        options.refuse(self.adopt and self.dry_run, "--adopt", "with --dry-run, which starts nothing")
        if self.from_bundle == "":  # a network would be asked instead, without a word
            raise SettingError("--from-bundle= names no file", "name the file that `invoke bundle` wrote")
        options.refuse(bool(self.from_bundle) and self.dry_run, "--from-bundle", "with --dry-run, which starts nothing")
        options.refuse(self.yes and self.dry_run, "--yes", "with --dry-run, which ends nothing")


def up(given: Flags, start: Start, on_boot: str | bool | None) -> None:
    chosen = None if on_boot is None else options.choose(str(on_boot).lower(), "true", "false", option="--on-boot=")
    options.refuse(chosen is not None and start.dry_run, "--on-boot", "with --dry-run, which changes nothing")
    project = options.load(given)
    if view := _up(project, start):
        engine = view.source
        for line in _follow(project, engine):
            console.notice(line)
        if seen := lease.look(project.settings, status.elsewhere(engine), engine.scheduled_runs):
            show_finding(seen[0])
    if chosen is not None:
        for line in lifecycle.start_at_boot(project, chosen == "true"):
            console.notice(line)


def _follow(project: Project, engine: Engine) -> tuple[str, ...]:
    """Have made by itself what the settings and the lease ask for; gives what to tell."""
    settings = project.settings
    if not (settings.backup_every or settings.lease_end or last_backup.load(settings.folder)):
        return ()  # nothing to make, and nothing to end
    from helpers.backups import last, schedule  # late: all that makes backups, for those who have one made

    return (*schedule.follow(project), *last.follow(project, engine))


def jupyter(given: Flags, start: Start) -> None:
    project = options.load(given)
    if not project.notebook_only:
        raise SettingError(
            "TRACKING_URI is missing: `invoke jupyter` starts only the notebook, for a remote "
            "tracking server (--tracking-uri=https://HOST); `invoke up` starts everything."
        )
    _up(project, start)


def _up(project: Project, start: Start) -> status.Overview | None:
    """What runs afterwards; None for a dry run."""
    start.refuse()
    if start.dry_run:
        from helpers import dry_run

        console.value(dry_run.script(project, start.name_prefix or ""))
        return None
    if start.from_bundle:
        project.bundle = Path(start.from_bundle).expanduser().absolute()
    with console.Progress() as progress:
        consent = None if start.yes else kernels.Consent(progress.confirm, sys.stdin.isatty())
        view = lifecycle.up(project, progress, progress.notice, start.adopt, consent)
    show_services(view, tunnel=False)
    if view.is_public:
        for line in gateway.notes(view.settings, len(users.load(view.settings))):
            console.notice(line)
    show_ready(project, view)
    return view


def prepare(given: Flags) -> None:
    project = options.load(given)
    with console.Progress() as progress:
        engine = lifecycle.prepare(project, progress, console.notice)
    console.notice(f"ready for `{engine.by_hand} up -d`")


def kept(project: Project, items: Iterable[DataItem]) -> str:
    """What `down --delete-data`, which deletes ``items``, leaves; "" where that is nothing."""
    backups = project.settings.folder / "backups"
    workspace = not any(item.is_workspace for item in items)
    return " and ".join(
        [
            *([f"the files in the workspace {status.workspace(select.current(project))}"] if workspace else []),
            *([f"the backups in {backups}"] if backups.is_dir() and any(backups.iterdir()) else []),
        ]
    )


def down(given: Flags, delete_data: bool, yes: bool) -> None:
    from helpers.backups import last, schedule

    project = options.load(given)
    try:
        items = lifecycle.data(project) if delete_data else ()
    except EngineUnavailable:
        lifecycle.close_ports(project)
        raise
    if items:
        console.notice("this deletes, for good:")
        for item in items:
            console.notice(f"{ITEM}{item.name}: {item.what}")
        console.notice(f"{ITEM}the secrets and settings of project {project.settings.project}")
        if backup_schedule.exists(project.settings):
            console.notice(f"{ITEM}the schedule of its backups; the backups stay")
        if stays := kept(project, items):
            console.notice(f"it keeps {stays}")
        if not yes and not console.confirm("Delete them?"):
            raise TrackbedError(
                "nothing was deleted, nothing was stopped", "answer y, or pass --yes where there is no terminal"
            )
    if busy := lifecycle.busy(project):
        console.notice(f"JupyterLab is computing, and this ends it: {busy}")
        if not (yes or delete_data) and sys.stdin.isatty() and not console.confirm("Stop it?"):
            raise TrackbedError("nothing was stopped", "wait for them, or `invoke down --yes`")
    with console.Progress() as progress:
        stopped = lifecycle.down(project, progress, console.notice)
        ended = last.remove(project)
        if delete_data and project.state.existed:
            for line in schedule.remove(project):
                progress.notice(line)
            last_backup.forget(project.settings.folder)
            lifecycle.delete_data(project, progress, console.notice)
    console.notice(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")
    if not delete_data and project.state.existed:
        console.notice("data are kept; `invoke up` goes on with them")
        if backup_schedule.exists(project.settings):
            console.notice("the schedule of backups pauses until then; `invoke backup.schedule --off` ends it")
        if ended:
            console.notice("no last backup of the lease is made until then")


def check(given: Flags) -> int:
    from helpers.checks.check import run_check, verdict

    project = options.load(given)
    engine = status.running(project)
    if missing := status.not_running(status.overview(engine)):
        raise TrackbedError(f"{project.settings.project} {missing}; start it with: {invocations.anywhere('up')}")
    with console.Progress() as progress:
        results = run_check(engine, progress)
    labels = {True: "passed", False: "failed", None: "not tested"}
    console.table(("check", "result", "detail"), [(r.name, labels[r.ok], r.detail) for r in results])
    console.notice(f"\n{verdict(results)}")
    return FAILED if any(r.ok is False for r in results) else 0


def doctor(given: Flags) -> int:
    from helpers.checks.doctor import examine

    findings = examine(options.last_tried(given, "checked"))
    console.table(("check", "result", "detail"), [(f.check, str(f.level), f.detail) for f in findings])
    for finding in findings:
        if finding.fix and finding.level is not Level.OK:
            console.notice(f"{finding.check}: {finding.fix}")
    if any(f.fix and f.level is not Level.OK for f in findings):
        console.notice(topics.reference(topics.DOCTOR))
    return FAILED if any(f.level is Level.ERROR for f in findings) else 0
