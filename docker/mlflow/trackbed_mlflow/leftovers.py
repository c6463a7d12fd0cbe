"""What a server that was killed left behind: files of uploads, and processes that hold its port."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from trackbed_mlflow.errors import say

LEFTOVER_SECONDS = 3600.0


def clear_files(folder: Path, now: float) -> int:
    """Remove what a killed server left of uploads in its own temporary folder; gives the count."""
    count = 0
    for entry in folder.glob("tmp*"):
        try:
            if entry.lstat().st_mtime > now - LEFTOVER_SECONDS or entry.lstat().st_uid != os.getuid():
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            count += 1
        except OSError as error:
            say(f"cannot remove the leftover {entry}: {error.strerror}")
    return count


def end_processes(environment: Mapping[str, str], proc: str = "/proc") -> int:
    """End what a killed server left behind: its workers live on and hold its port. Gives the count.

    They are of the same project, run this Python, and the leader of their process group is gone.
    A container needs none of this: there all processes end with the first.
    """
    name = "TRACKBED_INSTANCE_OF_PROCESS"
    if not environment.get(name):
        return 0
    expected, count = f"{name}={environment[name]}".encode(), 0
    for folder in Path(proc).glob("[0-9]*"):
        try:
            group = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[2])
            if (
                expected in (folder / "environ").read_bytes().split(b"\0")
                and (folder / "cmdline").read_bytes().split(b"\0")[0] == os.fsencode(sys.executable)
                and not Path(proc, str(group)).exists()
            ):
                os.kill(int(folder.name), signal.SIGKILL)
                count += 1
        except (OSError, ValueError, IndexError):
            continue
    return count
