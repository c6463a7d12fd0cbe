"""Data: backups, restore, the other engine, newer versions, what takes room."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from helpers import console, lifecycle, start_page, status
from helpers import usage as disk_usage
from helpers.backups import create, last, locations, manage, schedule
from helpers.backups import upgrade as upgrades
from helpers.backups.move import move as move_project
from helpers.backups.passphrase import change as change_backup_passphrase
from helpers.backups.restore import restore as restore_backup
from helpers.backups.retention import Policy
from helpers.backups.schedule import Ran
from helpers.backups.verify import verify as verify_backups
from helpers.cli import options
from helpers.cli.status import show_finding, show_ready, show_services
from helpers.engines import select
from helpers.errors import FAILED, TrackbedError
from helpers.findings import Level
from helpers.leases import last_backup as last_backups
from helpers.leases.last_backup import Setup
from helpers.project import backup_schedule
from helpers.project.backup_runs import Schedule
from helpers.project.project import Project
from helpers.services import Notice, ProgressReporter
from helpers.settings import flags
from helpers.settings.declaration import EVERY
from helpers.settings.flags import Flags
from helpers.sizes import cell

MIB = 2**20


def backup(given: Flags, with_secrets: bool) -> int:
    project = options.load(given)
    with console.Progress() as progress:
        to = project.settings.backup_place
        place, manifest, health = create.create(
            project,
            to,
            with_secrets,
            progress,
            progress.notice,
            done=lambda engine: start_page.refresh(project, engine),
        )
    console.value(place)
    console.notice(create.words(manifest))
    if line := create.stored(manifest):
        console.notice(line)
    for line in health.lines:
        console.notice(line)
    if with_secrets:
        plain = "in plain text; only you can read the file (0600): keep it so"
        console.notice(f"the backup holds this project's secrets {'encrypted' if health.encrypted else plain}")
    return FAILED if health.bad or health.gone else 0


def verify(given: Flags, place: str, repair: bool) -> int:
    project = options.load(given)
    with console.Progress() as progress:
        result = verify_backups(project, place or project.settings.backup_place, repair, progress, progress.notice)
    for line in result.lines:
        console.value(line)
    console.notice(result.summary)
    if not result.ok and result.repairable:
        console.notice(
            f"`invoke backup.verify {result.location} --repair` stores again what the running project still has"
        )
    return 0 if result.ok else FAILED


def list_backups(given: Flags, place: str, format: str, json: bool) -> None:
    format = options.output_format(format, json, "table", "json")
    project = options.load(given)
    rows = manage.listing(project, place or project.settings.backup_place)
    if format == "json":
        console.as_json([asdict(row) for row in rows])
        return
    console.table(
        ("backup", "made", "project", "runs", "objects", "MiB", "MiB new"),
        [
            (row.backup, row.problem, "", "", "", "", "")
            if row.problem
            else (
                row.backup,
                row.made,
                row.project,
                str(row.runs),
                str(row.objects),
                cell(row.object_bytes),
                "" if row.new_bytes is None else cell(row.new_bytes),
            )
            for row in rows
        ],
    )
    if lacking := [row for row in rows if row.lacks]:  # the newest one tells why
        names = ", ".join(row.backup.rpartition("/")[2] for row in lacking)
        console.notice(f"without all files of the notebook: {names}; {lacking[-1].lacks}")


def prune(given: Flags, place: str, dry_run: bool, now: bool) -> None:
    options.refuse(now and dry_run, "--now", "with --dry-run, which deletes nothing")
    project = options.load(given)
    place, policy = place or project.settings.backup_place, Policy.of(project.settings)
    with console.Progress() as progress:
        result = manage.pruned(project, place, policy, dry_run, now, progress)
    going = "would go" if dry_run else "forgotten"
    console.table(
        ("backup", "state", "why"), [(name, "kept" if stays else going, why) for name, stays, why in result.rows]
    )
    for line in result.lines:
        console.notice(line)


def change_passphrase(given: Flags, place: str) -> None:
    project = options.load(given)
    changed = change_backup_passphrase(project, place or project.settings.backup_place, console.new_secret)
    console.notice(f"{changed} opens with the new passphrase alone")
    console.notice(
        "write it into .env as BACKUP_PASSPHRASE, and keep it outside this machine too, in a password manager or on "
        "paper: without it nobody can read these backups again"
    )
    console.notice("a schedule in a cluster gets it from the next `invoke up`")
    console.notice(
        "a copy of the files below keys/ from before still opens with the old one: where somebody may have both, begin "
        "a new place"
    )


def schedule_backups(given: Flags, off: bool) -> int:
    """Make the schedule, end it, or show it."""
    own = (name for name, row in flags.taken("backup_schedule").items() if row.tasks != EVERY)
    words = {name for name in own if given.get(name) is not None}
    options.refuse(off and bool(words), "--off", "with --every, --to or --keep-last, which make a schedule")
    project = options.load(given)
    settings = project.settings
    if off:
        for line in schedule.remove(project) or ("there was no schedule",):
            console.notice(line)
        for line in last.follow(project) if project.state.existed else ():
            console.notice(line)
        start_page.refresh(project)
        if settings.backup_every:
            console.notice(f"`invoke up` makes it again: take out BACKUP_EVERY ({settings.origin('BACKUP_EVERY')})")
        return 0
    if words or backup_schedule.unfollowed(settings):
        for line in (*schedule.set_up(project), *last.follow(project)):
            console.notice(line)
        plain = lifecycle.load({name: value for name, value in given.items() if name not in words})
        if other := backup_schedule.unfollowed(plain.settings):
            console.notice(f"warning: {other}; the next `invoke up` makes that one")
        return 0
    made = backup_schedule.exists(settings)
    if not made or not (found := backup_schedule.condition(settings, select.current(project).scheduled_runs)):
        console.notice("no schedule; `invoke backup.schedule --every=6h --to=PLACE` makes one")
        return 0
    console.value(found.line)
    if found.problem:
        console.notice(f"warning: {found.problem}; {found.fix}")
    return FAILED if found.problem else 0


def backup_if_due(given: Flags) -> int:
    """What the timer runs each hour."""
    return _unattended(given, backup_schedule.load, schedule.run_if_due)


def last_backup(given: Flags, if_due: bool) -> int:
    """The last backup of a lease: now, or when a timer's look says so."""
    return _unattended(
        given, last_backups.load if if_due else lambda folder: None, last.run_if_due if if_due else last.run
    )


def _unattended(
    given: Flags,
    load: Callable[[Path], Schedule | Setup | None],
    run: Callable[[Project, ProgressReporter, Notice], Ran],
) -> int:
    """What a timer runs, with what the shell that set it up had."""
    if made := load(lifecycle.load(given).settings.folder):
        os.environ.update(made.environment)
    project = options.load(given)
    with console.Progress() as progress:
        ran = run(project, progress, progress.notice)
    for line in ran.lines:
        console.notice(line)
    return 0 if ran.ok else FAILED


def restore(
    given: Flags, source: str, into: str, no_backup: bool, skip_damaged: bool, yes: bool, no_workspace: bool
) -> None:
    options.refuse(bool(into and no_backup), "--no-backup", "with --into, which replaces nothing")
    project = options.load(given)
    chosen = locations.source(project.settings, source)  # once: another backup may be made while somebody answers
    if not into and project.state.existed and not yes:
        made = locations.manifest(chosen).get("made", "")
        question = (
            f"Replace the experiments and artifacts of project {project.settings.project} by {chosen}, made {made}?"
        )
        if not console.confirm(question):
            raise TrackbedError("nothing was restored", "answer y, or pass --yes where there is no terminal")
    with console.Progress() as progress:
        target, done = restore_backup(
            project, chosen, progress, progress.notice, not no_backup, into, skip_damaged, not no_workspace
        )
    console.notice(f"restored: {create.words(done.manifest)}")
    for line in (*done.left_lines, *done.files):
        console.notice(line)
    if done.before:
        console.notice(f"what was there before: {done.before}")
    if done.users:
        console.notice(f"logins that the backup brought, with their passwords: {', '.join(done.users)}")
    if done.users_left:
        console.notice("the logins in the backup were left out: this project has its own")
    # as `up` does: on the next machine of a lab this may be all that is typed
    for line in () if into else (*schedule.follow(target), *last.follow(target)):
        console.notice(line)
    try:
        view = status.read(target)
    except TrackbedError as error:  # the restore has ended well
        console.notice(f"warning: {error.message}; {error.hint}" if error.hint else f"warning: {error.message}")
        return
    if into:
        show_services(view, tunnel=False)
        console.notice(f"\nit is project {into}: --project={into} names it, as in `invoke down --project={into}`")
    show_ready(target, view)


def move(given: Flags, to: str) -> None:
    options.choose(to, *select.ENGINES, option="--to=")
    store = given.get("object_store")
    project = options.load(given | {"object_store": store and "auto"})  # the store is the other engine's
    with console.Progress() as progress:
        archived, view = move_project(project, to, store or "", progress, progress.notice)
    show_services(view)
    console.notice(f"\nmoved; the archive that carried the data is kept: {archived}")
    moved = options.load(given)
    engine = view.source
    for line in last.follow(moved, engine):
        console.notice(line)
    seen = backup_schedule.look(moved.settings, engine.scheduled_runs)
    if seen and seen[0].level is not Level.OK:
        show_finding(seen[0])


def upgrade(given: Flags) -> None:
    project = options.load(given)
    with console.Progress() as progress:
        done = upgrades.upgrade(project, progress, progress.notice)
    console.table(("what", "from", "to"), [(c.what, c.old, c.new) for c in done.changes])
    if done.archive:
        console.notice(f"backup made before: {done.archive}")
        console.notice("`invoke upgrade --back` returns to the old database, which is kept")
    else:
        console.notice("the database's schema is current: nothing to migrate")


def go_back(given: Flags) -> None:
    """`invoke upgrade --back`."""
    project = options.load(given)
    with console.Progress() as progress:
        kept, archived, runnable = upgrades.back(project, progress, progress.notice)
        if runnable:
            lifecycle.up(options.load(given), progress, progress.notice)
    console.notice(f"back on the database {kept['database']} (schema {kept['schema']}) of {kept['at']}")
    console.notice(f"what was logged since is in {archived}")
    if not runnable:
        console.notice(
            "it needs the MLflow of that time: git checkout the version you had, then "
            f"`invoke up{upgrades.flags_of_up(project.settings)}`"
        )


def usage(given: Flags, format: str, json: bool) -> None:
    format = options.output_format(format, json, "table", "json")
    project = options.load(given)
    with console.Progress() as progress:
        result = disk_usage.usage(project, progress)
    if format == "json":
        console.as_json(asdict(result))
        return
    console.table(
        ("experiment", "id", "runs", "objects", "MiB", "MiB per day", "MiB deleted"),
        [
            (
                use.name,
                use.identity,
                str(use.runs),
                str(use.objects),
                cell(use.size),
                cell(use.growth),
                cell(use.deleted),
            )
            for use in result.experiments
        ],
    )
    if any(use.deleted for use in result.experiments):
        console.notice("`invoke gc` shows what was deleted more than 30 days ago, `invoke gc --yes` removes it")
    console.notice(f"database {result.database / MIB:.0f} MiB; {result.free / 2**30:.1f} GiB free on the disk")


def gc(given: Flags, older_than: str, yes: bool) -> None:
    project = options.load(given)
    _show_deleted(project, older_than, yes)
    if not yes:
        return
    with console.Progress() as progress:
        done = disk_usage.collect(project, older_than, progress, progress.notice)
    console.notice(f"removed: {done.words}")


def _show_deleted(project: Project, older_than: str, yes: bool) -> None:
    engine = status.running(project)
    with console.Progress() as progress:
        result = disk_usage.deleted(engine, older_than, progress)
    if disk_usage.interrupted_import(project, older_than):
        console.notice("what an interrupted import stored goes too; the same `invoke import` would go on with it")
    rows = [
        (gone.identity, str(gone.runs), str(gone.models), str(gone.objects), cell(gone.size)) for gone in result.rows
    ]
    if rows:
        console.table(("experiment id", "runs", "models", "objects", "MiB"), rows)
    if result.protected:
        console.notice(
            f"{result.protected} deleted runs and models stay: a registered model version or another run needs them"
        )
    if not result.rows and not disk_usage.interrupted_import(project, older_than):
        console.notice(f"nothing was deleted longer ago than {older_than}")
    elif not yes:
        console.notice(f"nothing was removed; `invoke gc --older-than={older_than} --yes` removes {result.words}")
