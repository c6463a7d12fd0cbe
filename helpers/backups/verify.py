"""`invoke backup.verify`: backups read back, and what is damaged stored again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helpers import lifecycle, status
from helpers.backups import create, damage, locations, repository
from helpers.backups.repository import Snapshot
from helpers.engines.base import Sink
from helpers.errors import SettingError, TrackbedError
from helpers.project.project import Project
from helpers.services import Notice


@dataclass(frozen=True)
class Verified:
    """What a verification found, in lines; ``repairable``: --repair was not tried yet."""

    lines: tuple[str, ...]
    well: bool
    summary: str
    place: str
    repairable: bool


def verify(system: Project, text: str, repair: bool, sink: Sink, notice: Notice) -> Verified:
    """Read everything back of the backups that ``text`` names: a file, all of a folder or bucket, or one of them.

    ``repair``: manifests and lists from their copies; pieces from the running system, of which a new backup is made.
    """
    progress = create.Progress(sink, "verifying")
    chosen = locations.every(system.settings, text)
    if isinstance(chosen, list):
        if repair:
            raise SettingError(
                "--repair is for a repository: a single file cannot be repaired; `invoke backup` makes a new one."
            )
        return _verified_files(chosen, progress)
    place, names = chosen
    if repair:
        locations.target(system.settings, f"{place}/")  # refuses where root must not write
    found = damage.examine(place, names, progress.say, set(names) == set(repository.names(place)))
    if found.well or not repair:
        return Verified(tuple(damage.report(place, found)), found.well, _summary(found), f"{place}", True)
    lines = [f"repaired from its copy: {path}" for path in damage.mend(place, found)]
    if found.pieces:
        with lifecycle.changing(system, notice):
            added = create.add(system, status.running(system), place, sink, lost=found.pieces)
        lines += [f"made for it: {Snapshot(place, added.name)}", *create.health(place, added).lines]
        names = [*names, added.name]
    found = damage.examine(place, names, progress.say)
    return Verified((*lines, *damage.report(place, found)), found.well, _summary(found), f"{place}", False)


def _summary(found: damage.Found) -> str:
    return f"{len(found.names)} backups, {found.blobs} pieces, {found.size / 2**20:.1f} MiB read: " + (
        "all whole"
        if found.well
        else f"{len(found.harmed)} files damaged or missing; whole: {', '.join(found.whole) or 'no backup'}"
    )


def _verified_files(paths: list[Path], progress: create.Progress) -> Verified:
    lines, size = [], 0
    for path in paths:
        try:
            size += int(locations.verify(path, progress.say)["bytes"])
        except TrackbedError as error:
            lines.append(
                f"{error.message}; `invoke restore {path} --skip-damaged` restores what is whole of it, if "
                "its database is"
            )
    good = len(paths) - len(lines)
    return Verified(
        tuple(lines), not lines, f"{good} of {len(paths)} archives are whole, {size / 2**20:.1f} MiB", "", False
    )
