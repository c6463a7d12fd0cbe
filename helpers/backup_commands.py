"""What the tasks backup, restore, move, upgrade, usage and gc do: lifecycle for data. No printing, no Invoke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers import lifecycle
from helpers.backups import backup as backups
from helpers.engines.base import Sink
from helpers.lifecycle import Notice
from helpers.system import System


def words(manifest: dict[str, Any]) -> str:
    """An archive in one line."""
    rows = {name: int(count) for name, (count, _) in manifest["tables"].items()}
    return (f"{rows.get('runs', 0)} runs, {rows.get('metrics', 0)} metrics, {manifest['objects']} objects "
            f"({manifest['object_bytes'] / 2**20:.1f} MiB), schema {manifest['schema'] or 'none'}, "
            f"made {manifest['made']}")


def backup(system: System, to: str, with_secrets: bool, sink: Sink, notice: Notice) -> tuple[Path, dict[str, Any]]:
    """Write an archive of the running system; gives its path and manifest."""
    path = backups.target(system, to)
    with lifecycle.changing(system, notice):
        engine = lifecycle.running(system)
        return path, backups.make(system, engine, path, sink, with_secrets)
