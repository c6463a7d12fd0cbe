"""This machine's memory and disks."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def free_space(path: Path) -> int:
    """Bytes that are free where ``path`` is or will be. A folder that is closed can still be measured from above."""
    while True:
        try:
            return shutil.disk_usage(path).free
        except OSError:
            if path == path.parent:
                raise
            path = path.parent


def notebook_memory() -> str:
    """All memory but 2 GiB for the services (at least half of it), as Docker writes it."""
    total = psutil.virtual_memory().total >> 20
    return f"{max(total - 2048, total // 2)}m"
