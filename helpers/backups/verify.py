"""`invoke backup.verify`: backups read back, and what is damaged stored again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers import lifecycle, status
from helpers.backups import create, damage, encrypted, last_seen, locations, repository
from helpers.backups.meters import Meter
from helpers.backups.repository import Snapshot
from helpers.engines.base import ProgressReporter
from helpers.errors import SettingError, TrackbedError
from helpers.plurals import counted
from helpers.project import backup_schedule
from helpers.project.project import Project
from helpers.services import Notice
from helpers.sizes import mib


@dataclass(frozen=True)
class Verified:
    """What a verification found, in lines; ``repairable``: --repair was not tried yet."""

    lines: tuple[str, ...]
    ok: bool
    summary: str
    location: str
    repairable: bool


def verify(project: Project, text: str, repair: bool, progress: ProgressReporter, notice: Notice) -> Verified:
    """Read everything back of the backups that ``text`` names: a file, all of a folder or bucket, or one of them.

    ``repair``: manifests and lists from their copies; pieces from the running project, of which a new backup is made.
    """
    meter = Meter(progress, "verifying")
    chosen = locations.matching(project.settings, text, backup_schedule.scheduled_place(project.settings.folder))
    if isinstance(chosen, list):
        if repair:
            raise SettingError(
                "--repair is for a repository: a single file cannot be repaired; `invoke backup` makes a new one."
            )
        return _verified_files(chosen, meter)
    store, names = chosen
    keys = encrypted.damaged_keys(store)
    if repair:
        locations.target(project.settings, f"{store}/")  # refuses where root must not write; it writes lost keys again
    result = damage.examine(store, names, meter.report, set(names) == set(repository.names(store)))
    result.damaged |= encrypted.damaged_keys(store)
    gone = last_seen.missing(project.settings.folder, store)
    told = [f"repaired from its copy: {path}" for path in keys if path not in result.damaged]
    told += [f"warning: {gone}"] if gone else []
    if result.ok or not repair:
        return Verified(
            (*damage.report(store, result), *told), result.ok and not gone, _summary(result), f"{store}", not result.ok
        )
    lines = [f"repaired from its copy: {path}" for path in damage.repair(store, result)]
    if result.pieces:
        with lifecycle.changing(project, notice):
            engine, files = status.running(project), repository.has_workspace(store, names)
            added = create.add(project, engine, store, progress, lost=result.pieces, with_workspace=files)
            last_seen.remember(project.settings.folder, store, added.name)
        lines += [f"made for it: {Snapshot(store, added.name)}", *create.health(store, added).lines]
        names = [*names, added.name]
    result = damage.examine(store, names, meter.report)
    return Verified(
        (*lines, *damage.report(store, result), *told), result.ok and not gone, _summary(result), f"{store}", False
    )


def _summary(report: damage.DamageReport) -> str:
    size = mib(report.size)
    read = f"{counted(len(report.names), 'backup')}, {counted(report.blobs, 'piece')}, {size} read"
    if report.ok:
        return f"{read}: all whole"
    whole = ", ".join(report.restorable) or "no backup"
    return f"{read}: {counted(len(report.damaged), 'file')} damaged or missing; whole: {whole}"


def _verified_files(paths: list[Path], meter: Meter) -> Verified:
    lines, size = [], 0
    for path in paths:
        try:
            size += int(locations.verify(path, meter.report)["bytes"])
        except TrackbedError as error:
            lines.append(
                f"{error.message}; `invoke restore {path} --skip-damaged` restores what is whole of it, if "
                "its database is"
            )
    good = len(paths) - len(lines)
    return Verified(tuple(lines), not lines, f"{good} of {len(paths)} archives are whole, {mib(size)}", "", False)
