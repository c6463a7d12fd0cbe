"""Folders of VersityGW's volume that are removed at once: out of the store's sight first, off the disk behind that."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from trackbed_mlflow.errors import say, sync_open, sync_path

TRASH = ".removed"  # beside the folders that the store knows
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DEEP = 32  # folders within folders that are open at once: a path may have more than a process may open files


class RemovedObjects:
    """The trash of the volume at ``root``."""

    def __init__(self, root: Path) -> None:
        self._folder, self._turn = root / TRASH, threading.Lock()

    def take(self, above: int, name: str) -> None:
        """Put a folder of the open folder ``above`` aside, for good once this returns. Nothing where it is none, as a
        link."""
        if name not in _folders(above):
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        os.rename(name, self._folder / secrets.token_hex(8), src_dir_fd=above)
        # or a power cut brings it back, below a prefix that nobody looks into any more
        for folder in (self._folder.parent, self._folder):
            sync_path(str(folder))
        sync_open(above)

    def empty_behind(self) -> threading.Thread:
        """Remove what was put aside, also by an earlier process, while others work."""
        thread = threading.Thread(target=self.empty, daemon=True)
        thread.start()
        return thread

    def empty(self) -> None:
        """Remove all of it. What the disk does not let go stays until the next time, and holds up nothing else."""
        with self._turn:
            try:
                folder = os.open(self._folder, FOLDER)
            except FileNotFoundError:
                return
            try:
                stays = set[str]()
                while names := set(os.listdir(folder)) - stays:
                    for name in names:
                        try:
                            _remove(folder, folder, name)
                        except OSError as error:
                            stays.add(name)
                            say(f"what was removed is still on the disk: {error}")
            finally:
                os.close(folder)


def _folders(above: int) -> set[str]:
    with os.scandir(above) as entries:
        return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}


def _remove(trash: int, above: int, name: str, depth: int = 1) -> None:
    """Remove a folder and all in it; folders that lie too deep are put into the trash. No link is followed."""
    folder = os.open(name, FOLDER, dir_fd=above)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for entry, is_folder in found:
            if not is_folder:
                os.unlink(entry, dir_fd=folder)
            elif depth < DEEP:
                _remove(trash, folder, entry, depth + 1)
            else:
                os.rename(entry, secrets.token_hex(8), src_dir_fd=folder, dst_dir_fd=trash)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=above)
