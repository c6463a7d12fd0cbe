"""The files of a folder, each opened from the folder above it: no link is followed. A part of programs that are sent to
where the files are (sent_program.py)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
FOLDER = LOOK | os.O_DIRECTORY
CHUNK = 2**20


@contextmanager
def opened(name: str, folder: int) -> Iterator[int]:
    handle = os.open(name, FOLDER, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


def entries(folder: int) -> list[tuple[str, os.stat_result]]:
    """What is in a folder, by name."""
    result = []
    for name in sorted(os.listdir(folder)):
        try:
            result.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
        except FileNotFoundError:
            continue
    return result


def walk(folder: int, deepest: int, above: str = "") -> Iterator[tuple[str, os.stat_result, int, str]]:
    """Everything below that is no folder: its path, what it is, and the folder and name to open it by."""
    for name, info in entries(folder):
        if not stat.S_ISDIR(info.st_mode):
            yield f"{above}{name}", info, folder, name
        elif deepest:
            with opened(name, folder) as below:
                yield from walk(below, deepest - 1, f"{above}{name}/")
