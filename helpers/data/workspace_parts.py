"""What reading and restoring a workspace have in common. A part of the program workspace_script.py."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from helpers.data.folder_walk import FOLDER

HIDDEN = ".trackbed-"
STAGING = HIDDEN + "restore-"
DEEPEST = 100  # folders within folders: each holds a descriptor
Line = list[Any]  # as JSON has it


def say(line: Line) -> None:
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n")


def stays_inside(name: str, target: str) -> bool:
    """Whether a link at that place leads to somewhere below the workspace."""
    depth = name.count("/")
    if target.startswith("/") or not target:
        return False
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True


def has(handle: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=handle, follow_symlinks=False)
    except OSError:
        return False
    return True


class Walker:
    """Opens the folder of a path below ``root``, and keeps it: the next path is mostly in the same one."""

    def __init__(self, root: int, make: bool = False) -> None:
        self.root, self.make, self.path, self.handle = root, make, "", os.dup(root)

    def folder(self, path: str) -> int:
        if path != self.path:
            handle = os.dup(self.root)
            try:
                for part in path.split("/") if path else ():
                    if self.make:
                        try:
                            os.mkdir(part, 0o700, dir_fd=handle)
                        except FileExistsError:
                            pass
                    inner = os.open(part, FOLDER, dir_fd=handle)
                    os.close(handle)
                    handle = inner
            except BaseException:
                os.close(handle)
                raise
            os.close(self.handle)
            self.path, self.handle = path, handle
        return self.handle

    def above(self, path: str) -> tuple[int, str]:
        """The folder that it is in, and its name there."""
        folder, _, name = path.rpartition("/")
        return self.folder(folder), name

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        folder, name = self.above(path)
        return os.open(name, flags, mode, dir_fd=folder)
