"""What the tasks backup, restore, move, upgrade, usage and gc do: lifecycle for data. No printing, no Invoke."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import dryrun, lifecycle, typed
from helpers.backups import backup as backups
from helpers.backups import database, journal, objects, repository, restore, room, salvage, sources, verification
from helpers.backups.places import Place
from helpers.backups.repository import Snapshot
from helpers.backups.salvage import Rest
from helpers.engines import select
from helpers.engines.base import MLFLOW, Engine, Sink
from helpers.errors import SettingError, TrackbedError
from helpers.lifecycle import Notice
from helpers.project import credentials, users
from helpers.project.project import Project
from helpers.project.state import State, remembered, write_private
from helpers.settings import BY_NAME, Settings


def words(manifest: dict[str, Any]) -> str:
    """An archive in one line."""
    rows = {name: int(count) for name, (count, _) in manifest["tables"].items()}
    return (
        f"{rows.get('runs', 0)} runs, {rows.get('metrics', 0)} metrics, {manifest['objects']} objects "
        f"({manifest['object_bytes'] / 2**20:.1f} MiB), schema {manifest['schema'] or 'none'}, "
        f"made {manifest['made']}"
    )


def stored(manifest: dict[str, Any]) -> str:
    """What a backup into a repository had to do; "" for an archive."""
    if "new_pieces" not in manifest:
        return ""
    read = manifest["objects"] - manifest["unchanged_objects"]
    return (
        f"{manifest['unchanged_objects']} objects unchanged since the last backup, {read} read; "
        f"{manifest['new_bytes'] / 2**20:.1f} MiB in {manifest['new_pieces']} pieces were new"
    )


@dataclass(frozen=True)
class Restored:
    """What a restore did: the manifest, the backup of what was there before (None: there was nothing), the people
    whose logins it brought and whether logins of the backup were left out because there are others; the names of
    what is damaged in the backup, and the file that lists them."""

    manifest: dict[str, Any]
    before: Path | None
    users: tuple[str, ...] = ()
    users_left: bool = False
    left: tuple[str, ...] = ()
    left_file: Path | None = None

    @property
    def left_lines(self) -> list[str]:
        """What was damaged and left out: the first of it, and where all of it is named."""
        if not self.left:
            return []
        named = [f"    {verification.words(name)}" for name in self.left[: verification.NAMED]]
        return [
            f"left out, because damaged in the backup: {len(self.left)} files",
            *named,
            f"all of them are named in {self.left_file}",
        ]


@dataclass(frozen=True)
class Health:
    """What a backup says of the repository it went into: lines, and whether earlier backups are damaged for good."""

    lines: tuple[str, ...] = ()
    damaged: bool = False


def _health(place: Place, added: backups.Added) -> Health:
    lines = [f"an earlier backup is damaged: {remark}" for remark in added.remarks]
    if added.reread.count:
        lines.append(
            f"read again of earlier backups: {added.reread.count} pieces ({added.reread.size / 2**20:.1f} MiB)"
            f", {len(added.reread.wrong) or 'none'} damaged"
        )
    if added.rewritten:
        lines.append(f"{added.rewritten} damaged or missing pieces were stored again")
    for name, files in added.concerned.items():
        lines += [
            f"{name} is damaged, and the running system does not have this any more:",
            *(f"    {file}" for file in files),
        ]
    damaged = bool(added.concerned or added.remarks)
    if damaged:
        lines.append(
            f"the new backup is whole; `invoke backup.verify {place}` lists all damage in the earlier ones. "
            "Deleting a file below backups/ forgets that backup"
        )
    return Health(tuple(lines), damaged)


def verify(system: Project, text: str, repair: bool, sink: Sink, notice: Notice) -> Verified:
    """Read everything back of the backups that ``text`` names: a file, all of a folder or bucket, or one of them.

    ``repair``: manifests and lists from their copies; pieces from the running system, of which a new backup is made.
    """
    progress = backups.Progress(sink, "verifying")
    chosen = sources.every(system.settings, text)
    if isinstance(chosen, list):
        if repair:
            raise SettingError(
                "--repair is for a repository: a single file cannot be repaired; `invoke backup` makes a new one."
            )
        return _verified_files(chosen, progress)
    place, names = chosen
    if repair:
        sources.target(system.settings, f"{place}/")  # refuses where root must not write
    found = verification.examine(place, names, progress.say, set(names) == set(repository.names(place)))
    if found.well or not repair:
        return Verified(tuple(verification.report(place, found)), found.well, _summary(found), f"{place}", True)
    lines = [f"repaired from its copy: {path}" for path in verification.mend(place, found)]
    if found.pieces:
        with lifecycle.changing(system, notice):
            added = backups.add(system, lifecycle.running(system), place, sink, lost=found.pieces)
        lines += [f"made for it: {Snapshot(place, added.name)}", *_health(place, added).lines]
        names = [*names, added.name]
    found = verification.examine(place, names, progress.say)
    return Verified((*lines, *verification.report(place, found)), found.well, _summary(found), f"{place}", False)


@dataclass(frozen=True)
class Verified:
    """What a verification found, in lines; ``repairable``: --repair was not tried yet."""

    lines: tuple[str, ...]
    well: bool
    summary: str
    place: str
    repairable: bool


def _summary(found: verification.Found) -> str:
    return f"{len(found.names)} backups, {found.blobs} pieces, {found.size / 2**20:.1f} MiB read: " + (
        "all whole"
        if found.well
        else f"{len(found.harmed)} files damaged or missing; whole: {', '.join(found.whole) or 'no backup'}"
    )


def _verified_files(paths: list[Path], progress: backups.Progress) -> Verified:
    lines, size = [], 0
    for path in paths:
        try:
            size += int(sources.verify(path, progress.say)["bytes"])
        except TrackbedError as error:
            lines.append(
                f"{error.message}; `invoke restore {path} --skip-damaged` restores what is whole of it, if "
                "its database is"
            )
    good = len(paths) - len(lines)
    return Verified(
        tuple(lines), not lines, f"{good} of {len(paths)} archives are whole, {size / 2**20:.1f} MiB", "", False
    )


def backup(
    system: Project, to: str, with_secrets: bool, sink: Sink, notice: Notice
) -> tuple[str, dict[str, Any], Health]:
    """Back up the running system into a file or a repository; gives where, as `restore` takes it, the manifest, and
    what is to be said of the repository."""
    if with_secrets and to.startswith("s3:"):
        raise SettingError("--with-secrets: secrets are not put into a bucket in plain text; back them up into a file.")
    goal = sources.target(system.settings, to)
    with lifecycle.changing(system, notice):
        engine = lifecycle.running(system)
        if isinstance(goal, Path):
            return str(goal), backups.make(system, engine, goal, sink, with_secrets), Health()
        added = backups.add(system, engine, goal, sink, with_secrets)
        return str(Snapshot(goal, added.name)), added.manifest, _health(goal, added)


def aside(system: Project, name: str) -> Project:
    """The new or empty project ``name`` beside this one: its settings and engine, on ports that are free, not public.

    Raises SettingError for a name that is none, or where both would share a bucket.
    """
    settings = Settings.load(
        {"project": name, "state_dir": str(system.settings.state_dir)},
        os.environ,
        system.settings.env_file,
        remembered,
    )
    if settings.project == system.settings.project:
        raise SettingError(f"--into={name}: is this project itself; leave --into out to replace what is in it.")
    state = State.load(settings.folder)
    store = state.remembered.get("OBJECT_STORE", system.settings.object_store)
    if "external" in (store, system.settings.object_store):
        raise SettingError(
            "--into: OBJECT_STORE=external has one bucket, which two projects must not share; restore "
            "in a second clone with another S3_BUCKET."
        )
    made = dryrun.beside(system.settings, name, dryrun.is_free(system))
    kept = {field: int(state.remembered.get(field.upper(), getattr(made, field))) for field in dryrun.PORTS}
    engine = state.engine or system.state.engine or made.engine
    told = {
        **system.state.remembered,
        **system.settings.told,
        **state.remembered,
        "ENGINE": engine,
        "PUBLIC": "",
        "WORKSPACE": "",
        **{field.upper(): str(port) for field, port in kept.items()},
    }
    settings = replace(made, public=False, engine=engine, object_store=store, told=told, **kept)  # type: ignore[arg-type]
    return Project(settings, state, aside=True)


def restore_archive(
    system: Project,
    text: str,
    sink: Sink,
    notice: Notice,
    keep_before: bool = True,
    into: str = "",
    skip_damaged: bool = False,
) -> tuple[Project, Restored]:
    """Replace what is live by a backup; the old goes only when the new one is up. ``into``: in that project instead.
    ``skip_damaged``: without the artifacts that are damaged in it.

    Gives the system that has it now. Raises TrackbedError, and then the system is as it was.
    """
    source = sources.source(system.settings, text)
    target = aside(system, into) if into else system
    room.check_manifest(select.current(target), sources.manifest(source))  # reading what cannot fit may take days
    rest = restore.verify(source, sink, skip_damaged)
    people = users.imported(salvage.small(rest, "users.json") or b"{}")
    if into:
        typed.work_on(target.settings.project)  # also where its start fails: what to type is for that one
    lifecycle.up(target, sink, notice)
    with lifecycle.changing(target, notice):
        credentials.learn(target.settings, _secrets(rest))
        target.reread_credentials()
        before = _replace(target, source, rest, sink, notice, keep_before)
    brought = _bring_in(target, people, notice)
    left = bool(people) and not brought and users.load(target.settings) != people
    return target, Restored(rest.manifest, before, brought, left, rest.left, _write_left(target, rest.left))


def _write_left(system: Project, names: tuple[str, ...]) -> Path | None:
    """The whole list of what a restore left out, beside the archives."""
    if not names:
        return None
    path = backups.kept(system.settings, "left-out-").with_suffix(".txt")
    write_private(path, "".join(f"{verification.words(name)}\n" for name in names).encode("utf-8", "backslashreplace"))
    return path


def _secrets(rest: Rest) -> dict[str, str]:
    """The secrets in a backup: what its rows are encrypted with is needed once, to encrypt them anew."""
    try:
        found = json.loads(salvage.small(rest, "secrets.json") or b"{}")
    except (ValueError, RecursionError):
        raise TrackbedError("the secrets in the backup are no secrets", "use another backup") from None
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _replace(
    system: Project, source: sources.Source, rest: Rest, sink: Sink, notice: Notice, keep_before: bool
) -> Path | None:
    """Make a verified backup live; gives the archive of what was there before."""
    engine = lifecycle.running(system)
    if system.aside and not _is_empty(system, engine):
        raise TrackbedError(
            f"project {system.settings.project} has data of its own; nothing was changed",
            f"--project={system.settings.project} instead of --into replaces them; or choose another",
        )
    try:
        new = restore.copy(system, engine, source, rest, sink, notice)
        for line in restore.put_to_sleep(engine, new["database"]) if rest.manifest["schema"] else ():
            notice(line)
        before = _before(system, engine, sink) if keep_before else None
        engine.halt(MLFLOW, sink)
        flip(system, new, sink, notice)
    except BaseException:
        _back_up(system, engine, sink, notice)
        raise
    _take_settings(system, restore.settings_of(rest), notice)
    return before


def _take_settings(system: Project, found: dict[str, str], notice: Notice) -> None:
    """The settings of a backup that is live now, where there are none: one that did not come up leaves nothing."""
    taken = {name: value for name, value in sorted(found.items()) if name not in system.state.remembered}
    if not taken:
        return
    system.state.remembered = {**system.state.remembered, **taken}
    system.state.save()
    notice(
        f"settings of the backup, from the next start on: {', '.join(f'{n}={v}' for n, v in taken.items())}; to "
        f"forget them: {', '.join(BY_NAME[name].forgetting for name in taken)}"
    )


def _bring_in(system: Project, people: dict[str, users.Login], notice: Notice) -> tuple[str, ...]:
    """The logins of a backup, where there is nobody yet."""
    if not people or users.load(system.settings):
        return ()
    return tuple(
        lifecycle.change_users(system, notice, lambda: " ".join(users.restore(system.settings, people))).split()
    )


def _is_empty(system: Project, engine: Engine) -> bool:
    """Whether nothing was ever logged."""
    held = database.contents(engine, system.state.live["database"])
    return not held.runs and int(held.tables.get("experiments", ["0"])[0]) <= 1 and not objects.total(engine)[0]


def _before(system: Project, engine: Engine, sink: Sink) -> Path | None:
    """Stop the server, so that nothing is acknowledged any more, and back up what it holds."""
    engine.halt(MLFLOW, sink)
    if _is_empty(system, engine):
        return None
    sink.step("backing up the current data")
    path = backups.kept(system.settings, "before-")
    backups.make(system, engine, path, sink)
    return path


def flip(system: Project, new: dict[str, str], sink: Sink, notice: Notice) -> None:
    """Make ``new`` live in one step and start with it; back to the old one when that does not come up."""
    old = dict(system.state.live)
    system.state.live = {**old, **new}
    system.state.save()
    try:
        _, engine = lifecycle.bring_up(system, sink, notice)
    except TrackbedError as error:
        system.state.live = old
        system.state.save()
        raise TrackbedError(
            f"the new data do not start: {error.message}", "the old one is active again", error.details
        ) from None
    journal.settle(system.state, engine, sink)


def _back_up(system: Project, engine: Engine, sink: Sink, notice: Notice) -> None:
    """After a failure: what is live runs again, and the copy goes."""
    try:
        lifecycle.bring_up(system, sink, notice)
        restore.abandon(system, engine, sink)
    except TrackbedError as error:
        notice(f"warning: {error.message}; `invoke up` repairs it")
