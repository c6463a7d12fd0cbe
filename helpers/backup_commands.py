"""What the tasks backup, restore, move, upgrade, usage and gc do: lifecycle for data. No printing, no Invoke."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import lifecycle
from helpers.backups import archive, database, journal, objects, restore
from helpers.backups import backup as backups
from helpers.engines.base import MLFLOW, Engine, Sink
from helpers.errors import TrackbedError
from helpers.lifecycle import Notice
from helpers.state import make_folder
from helpers.system import System


def words(manifest: dict[str, Any]) -> str:
    """An archive in one line."""
    rows = {name: int(count) for name, (count, _) in manifest["tables"].items()}
    return (f"{rows.get('runs', 0)} runs, {rows.get('metrics', 0)} metrics, {manifest['objects']} objects "
            f"({manifest['object_bytes'] / 2**20:.1f} MiB), schema {manifest['schema'] or 'none'}, "
            f"made {manifest['made']}")


@dataclass(frozen=True)
class Restored:
    """What a restore did: the archive's manifest, and the backup of what was there before (None: there was nothing)."""

    manifest: dict[str, Any]
    before: Path | None


def backup(system: System, to: str, with_secrets: bool, sink: Sink, notice: Notice) -> tuple[Path, dict[str, Any]]:
    """Write an archive of the running system; gives its path and manifest."""
    path = backups.target(system, to)
    with lifecycle.changing(system, notice):
        engine = lifecycle.running(system)
        return path, backups.make(system, engine, path, sink, with_secrets)


def restore_archive(system: System, file: str, sink: Sink, notice: Notice, keep_before: bool = True) -> Restored:
    """Replace what is live by an archive; the old goes only when the new one is up.

    Raises TrackbedError, and then the system is as it was.
    """
    path = Path(file).expanduser().absolute()
    sink.step(f"verifying {path.name}")
    manifest = archive.verify(path)
    lifecycle.up(system, sink, notice)
    with lifecycle.changing(system, notice):
        engine = lifecycle.running(system)
        try:
            new = restore.copy(system, engine, path, manifest, sink)
            before = _before(system, engine, sink) if keep_before else None
            engine.halt(MLFLOW, sink)
            told = restore.settings_of(path, manifest)
            system.state.remembered = {**told, **system.state.remembered}
            flip(system, new, sink, notice)
        except BaseException:
            _back_up(system, engine, sink, notice)
            raise
    return Restored(manifest, before)


def _before(system: System, engine: Engine, sink: Sink) -> Path | None:
    """Stop the server, so that nothing is acknowledged any more, and back up what it holds."""
    engine.halt(MLFLOW, sink)
    held = database.contents(engine, system.state.live["database"])
    if not held.runs and int(held.tables.get("experiments", ["0"])[0]) <= 1 and not objects.sums(engine)[0].count:
        return None  # nothing was ever logged
    sink.step("backing up what is there")
    folder = make_folder(system.settings.folder / "backups", private=True)
    path = folder / f"before-{backups.name(system.settings.project)}"
    backups.make(system, engine, path, sink)
    return path


def flip(system: System, new: dict[str, str], sink: Sink, notice: Notice) -> None:
    """Make ``new`` live in one step and start with it; back to the old one when that does not come up."""
    old = dict(system.state.live)
    system.state.live = {**old, **new}
    system.state.save()
    try:
        _, engine = lifecycle.bring_up(system, sink, notice)
    except TrackbedError as error:
        system.state.live = old
        system.state.save()
        raise TrackbedError(f"the new state does not come up: {error.message}", "the old one is live again",
                            error.details) from None
    journal.settle(system.state, engine, sink)


def _back_up(system: System, engine: Engine, sink: Sink, notice: Notice) -> None:
    """After a failure: what is live runs again, and the copy goes."""
    try:
        lifecycle.bring_up(system, sink, notice)
        restore.abandon(system, engine, sink)
    except TrackbedError as error:
        notice(f"warning: {error.message}; `invoke up` repairs it")
