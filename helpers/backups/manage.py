"""`invoke backup.list` and `invoke backup.prune`: the backups of a place as rows, and the end of the old ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.backups import archive, locations, prune, repository, retention
from helpers.backups.locations import Source
from helpers.backups.prune import Amount, PruneResult
from helpers.backups.repository import WORKERS, Snapshot
from helpers.backups.retention import Policy
from helpers.backups.storage import BlobStore
from helpers.engines.base import ProgressReporter
from helpers.errors import SettingError, TrackbedError
from helpers.plurals import counted
from helpers.project import backup_schedule
from helpers.project.project import Project
from helpers.sizes import mib
from helpers.suggestions import shown

HOUR = 3600.0


@dataclass(frozen=True)
class BackupRow:
    """One backup. ``backup``: as `restore` takes it; sizes in bytes, ``new_bytes`` None where that means nothing;
    ``problem``: why it tells nothing of itself; ``lacks``: why it has not all of the notebook's files."""

    backup: str
    made: str = ""
    project: str = ""
    runs: int = 0
    objects: int = 0
    object_bytes: int = 0
    new_bytes: int | None = None
    problem: str = ""
    lacks: str = ""


def listing(project: Project, text: str) -> list[BackupRow]:
    """The backups that ``text`` names, the oldest first. Their content is not read."""
    chosen = locations.matching(project.settings, text, backup_schedule.scheduled_place(project.settings.folder))
    sources: list[Source] = []
    if isinstance(chosen, list):
        sources += chosen
    else:
        store, names = chosen
        sources += [Snapshot(store, name) for name in sorted(names, key=repository.stamp)]
    with ThreadPoolExecutor(WORKERS) as workers:
        return list(workers.map(_row, sources))


def _row(source: Source) -> BackupRow:
    try:
        manifest: dict[str, Any] = locations.manifest(source)
        return BackupRow(
            str(source),
            str(manifest.get("made", "")),
            str(manifest.get("project", "")),
            int(manifest["tables"].get("runs", ["0"])[0]),
            manifest["objects"],
            manifest["object_bytes"],
            manifest.get("new_bytes"),
            lacks=shown(str(manifest.get("workspace_problem", "")), 500),
        )
    except TrackbedError as error:
        return BackupRow(str(source), problem=error.message)


@dataclass(frozen=True)
class Pruned:
    """``rows``: each backup of the project, whether it stays, and why; ``lines``: what else is to be said."""

    rows: tuple[tuple[str, bool, str], ...]
    lines: tuple[str, ...]


def pruned(
    project: Project, text: str, policy: Policy, dry_run: bool, at_once: bool, progress: ProgressReporter
) -> Pruned:
    """Forget what the policy does not keep of this project's backups at a place, and free what no backup needs."""
    if policy.empty:
        raise SettingError(
            "no backup would stay: say how many to keep, as in --keep-last=7 --keep-daily=14 --keep-weekly=8."
        )
    chosen = locations.matching(project.settings, text, backup_schedule.scheduled_place(project.settings.folder))
    place = text.rstrip("/") or str(project.settings.folder / "backups")
    if isinstance(chosen, list):
        if chosen == [Path(text).expanduser().absolute()]:
            raise SettingError(f"{text} is a single backup: name the folder or bucket that holds it.")
        locations.target(project.settings, f"{place}/")  # refuses where root must not write
        return _prune_files(project, chosen, policy, dry_run)
    store = chosen[0]
    if repository.is_name(place.rpartition("/")[2].removesuffix(".json")):
        raise SettingError(f"{text} is a single backup: name the folder or bucket that holds it.")
    locations.target(project.settings, f"{store}/")
    result = prune.prune(store, project.settings.project, policy, progress, dry_run, at_once)
    rows = tuple((name, bool(why), ", ".join(why)) for name, why in result.reasons.items())
    return Pruned(rows, tuple(_lines(store, result, dry_run)))


def _prune_files(project: Project, files: list[Path], policy: Policy, dry_run: bool) -> Pruned:
    """The archives that `invoke backup` made. Those of `upgrade`, `move` and `restore` have other names, and stay."""
    by_name = {path.stem: path for path in files if path.is_file()}
    ours = [n for n in by_name if repository.is_name(n) and repository.project(n) == project.settings.project]
    unjudged = {name: [problem] for name in ours if (problem := _problem(by_name[name]))}
    reasons = retention.reasons([name for name in ours if name not in unjudged], policy) | unjudged
    freed = Amount()
    for name, why in reasons.items():
        if not why:
            freed.count, freed.size = freed.count + 1, freed.size + by_name[name].stat().st_size
            if not dry_run:
                by_name[name].unlink(missing_ok=True)
    rows = tuple((name, bool(reasons[name]), ", ".join(reasons[name])) for name in sorted(ours, key=repository.stamp))
    lines = [f"{counted(freed.count, 'archive')}, {_mib(freed)}: {'would be deleted' if dry_run else 'deleted'}"]
    if others := len(files) - len(ours):
        lines.append(f"{counted(others, 'other archive')} not looked at: of another project, or made by another task")
    return Pruned(rows, tuple(lines))


def _problem(path: Path) -> str:
    """Why an archive does not count among those to keep, and stays; "" where it does."""
    try:
        archive.read_manifest(path)
    except TrackbedError as error:
        return error.message.removeprefix(f"{path}: ").removeprefix(f"{path} ")
    return "" if retention.plausible(path.stem, path.stat().st_mtime) else retention.WRONG_TIME


def _mib(amount: Amount) -> str:
    return mib(amount.size)


def _lines(store: BlobStore, result: PruneResult, dry_run: bool) -> list[str]:
    forgotten, hours = len(result.forgotten), f"{prune.GRACE / HOUR:.0f} hours"
    lines = []
    if result.others:
        lines.append(f"{counted(result.others, 'backup')} of other projects there: all stay")
    if dry_run:
        lines.append(
            f"nothing was changed; {counted(forgotten, 'backup')} would be forgotten, and "
            f"{counted(result.unused.count, 'blob')} ({_mib(result.unused)}) would be needed by none"
        )
        return lines
    lines.append(f"{counted(forgotten, 'backup')} forgotten, {len(result.reasons) - forgotten} kept")
    if result.deleted.count:
        lines.append(f"deleted: {counted(result.deleted.count, 'blob')}, {_mib(result.deleted)}")
    if result.waiting.count:
        because = (
            f"{counted(result.busy, 'backup')} being written may rely on some of it"
            if result.busy
            else f"a prune after {hours} deletes it"
        )
        lines.append(f"set aside: {counted(result.waiting.count, 'blob')}, {_mib(result.waiting)}; {because}")
    return lines
