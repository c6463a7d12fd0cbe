"""Folders of VersityGW's volume that are removed at once: out of the store's sight first, off the disk behind that."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from trackbed_mlflow.errors import say

TRASH = ".removed"  # beside the folders that the store knows
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RemovedObjects:
    """The trash of the volume at ``root``."""

    def __init__(self, root: Path) -> None:
        self._folder, self._turn = root / TRASH, threading.Lock()

    def take(self, above: int, name: str) -> None:
        """Put a folder of the open folder ``above`` aside. Nothing where it is none, as a link."""
        if name not in _folders(above):
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        os.rename(name, self._folder / secrets.token_hex(8), src_dir_fd=above)

    def empty_behind(self) -> threading.Thread:
        """Remove what was put aside, also by an earlier process, while others work."""
        thread = threading.Thread(target=self.empty, daemon=True)
        thread.start()
        return thread

    def empty(self) -> None:
        """Remove all of it. What the disk does not let go stays until the next time."""
        with self._turn:
            try:
                folder = os.open(self._folder, FOLDER)
            except FileNotFoundError:
                return
            try:
                for name in os.listdir(folder):
                    _remove(folder, name)
            except OSError as error:
                say(f"what was removed is still on the disk: {error}")
            finally:
                os.close(folder)


def _folders(above: int) -> set[str]:
    with os.scandir(above) as entries:
        return {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}


def _remove(above: int, name: str) -> None:
    """Remove a folder and all in it. No link is followed."""
    for _, folders, files, folder in os.fwalk(name, topdown=False, dir_fd=above):
        for entry in files:
            os.unlink(entry, dir_fd=folder)
        for entry in folders:
            try:
                os.rmdir(entry, dir_fd=folder)
            except NotADirectoryError:  # a link to one
                os.unlink(entry, dir_fd=folder)
    os.rmdir(name, dir_fd=above)
