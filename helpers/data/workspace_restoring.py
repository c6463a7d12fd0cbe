"""The files of a backup into a workspace. A part of the program workspace_script.py, which tells of each task."""

from __future__ import annotations

import ctypes
import fnmatch
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from helpers.data.folder_walk import CHUNK, FOLDER, LOOK, opened, walk
from helpers.data.workspace_parts import DEEPEST, HIDDEN, STAGING, Line, Walker, has, say, stays_inside

GIVEN = HIDDEN + "examples"  # what docker/jupyter/trackbed_notebook/examples.py gave to a new workspace, with sums
NO_FILES = (".ipynb_checkpoints", "lost+found")  # a workspace with no more than these is empty
ACTS = "jupyter*_config.*"  # JupyterLab runs it at its next start where it lies at the top
FREE = 512 * 2**20  # bytes of the disk that a restore leaves
DIRTY = 2**30  # bytes after which the disk gets them: at the end nobody would hear anything for too long


class Restoring:
    """Writes a backup's files into a hidden folder of the workspace."""

    def __init__(self, root: int, size: int) -> None:
        self.root, self.place, self.since, self.dirty = root, STAGING + secrets.token_hex(8), 0, 0
        self.room(size)
        os.mkdir(self.place, 0o700, dir_fd=root)
        self.handle = os.open(self.place, FOLDER, dir_fd=root)
        self.walker = Walker(self.handle, make=True)
        self.problems: list[str] = []

    def room(self, size: int) -> None:
        facts = os.statvfs(self.root)
        free = facts.f_bavail * facts.f_frsize
        if size > free - FREE:
            raise SystemExit(
                f"the workspace needs {size / 2**30:.1f} GiB and {FREE / 2**30:.1f} GiB have to stay free on its disk, "
                f"{free / 2**30:.1f} GiB are free"
            )

    def file(self, name: str, size: int, source: BinaryIO) -> None:
        handle = self.walker.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "wb", 0) as target:
            while size:
                data = source.read(min(size, CHUNK))
                if not data:
                    raise SystemExit("what is to be restored ended early")
                view = memoryview(data)
                while view:
                    view = view[target.write(view) :]
                size -= len(data)
                self.since += len(data)
                self.dirty += len(data)
                if self.since >= 64 * CHUNK:
                    self.since = 0
                    self.room(0)
                if self.dirty >= DIRTY:
                    self.sync()
                    self.dirty = 0

    def sync(self) -> None:
        """See that the disk has all that was written."""
        try:
            ctypes.CDLL(None).syncfs(self.handle)
        except (AttributeError, OSError):
            os.sync()

    def read_back(self) -> None:
        """The sums of what the disk has."""
        self.sync()
        for name, _, folder, own in walk(self.handle, DEEPEST + 1):
            sha, size = hashlib.sha256(), 0
            with os.fdopen(os.open(own, LOOK, dir_fd=folder), "rb", 0) as stream:
                while data := stream.read(CHUNK):
                    sha.update(data)
                    size += len(data)
            say(["sum", sha.hexdigest(), size, name])

    def apply(self, lines: BinaryIO) -> None:
        """Links and empty folders, then modes and times, what is in a folder before the folder."""
        for act in (self.create, self.dress):
            lines.seek(0)
            for text in lines:
                line = json.loads(text)
                check(line[1])
                try:
                    act(line)
                except OSError as error:
                    self.problems.append(f"{line[1]}: {error.strerror}")

    def create(self, line: Line) -> None:
        kind, name = line[0], line[1]
        if kind == "dir":
            self.walker.folder(name)
        elif kind == "link":
            if not stays_inside(name, line[2]):
                self.problems.append(f"{name}: a link that leads out of the workspace")
                return
            folder, last = self.walker.above(name)
            os.symlink(line[2], last, dir_fd=folder)
        elif kind == "void":
            folder, last = self.walker.above(name)
            os.unlink(last, dir_fd=folder)  # what the backup has of it is not its content

    def dress(self, line: Line) -> None:
        kind, name = line[0], line[1]
        if kind == "link":
            folder, last = self.walker.above(name)
            os.utime(last, ns=(line[3], line[3]), dir_fd=folder, follow_symlinks=False)
            return
        if kind not in ("file", "dir"):
            return
        mode, moment = line[-2] & 0o777, line[-1]
        handle = self.walker.open(name, LOOK if kind == "file" else FOLDER)
        try:
            os.utime(handle, ns=(moment, moment))
            os.fchmod(handle, mode)
        finally:
            os.close(handle)


def check(name: Any) -> None:
    parts = name.split("/") if isinstance(name, str) else [""]
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in name or len(parts) > DEEPEST + 1:
        raise SystemExit(f"{name!r} is no name of a file in a workspace")


def write(root: int, size: int, source: BinaryIO) -> None:
    drop(root)
    restoring = Restoring(root, size)
    try:
        while (line := json.loads(source.readline(2**16)))[0] != "end":
            if line[0] == "file":
                check(line[1])
                restoring.file(line[1], int(line[2]), source)
                continue
            with tempfile.TemporaryFile() as spool:  # first: who sends it reads no sums yet
                left = int(line[1])
                while left and (data := source.read(min(left, CHUNK))):
                    spool.write(data)
                    left -= len(data)
                restoring.read_back()
                restoring.apply(spool)
    except BaseException:
        drop(root)
        raise
    for problem in restoring.problems[:100]:
        say(["problem", problem])
    say(["end", restoring.place])


def place(root: int, folder: str, name: str) -> None:
    """Into the workspace where it has no files, else beside them. Says which, and what stayed in the folder.

    The examples of a new workspace, as they were given, are no files of its user's: they make room.
    """
    occupied = [n for n in os.listdir(root) if not n.startswith(HIDDEN) and n not in NO_FILES]
    if given := as_given(root, occupied):
        occupied = [] if remove(root, given) else occupied
    final = name
    for number in range(2, 1000):
        if not has(root, final):
            break
        final = f"{name}-{number}"
    if occupied:
        os.rename(folder, final, src_dir_fd=root, dst_dir_fd=root)
        say(["placed", final, []])
        return
    handle = os.open(folder, FOLDER, dir_fd=root)
    stayed = [one for one in os.listdir(handle) if fnmatch.fnmatchcase(one, ACTS) or not moved(handle, one, root)]
    if stayed:
        os.rename(folder, final, src_dir_fd=root, dst_dir_fd=root)
    else:
        os.rmdir(folder, dir_fd=root)
    say(["placed", "", [final, *stayed[:20]] if stayed else []])


def as_given(root: int, names: list[str]) -> list[str]:
    """The files of these entries where all of them are the examples and nobody has changed one; else none."""
    result: list[str] = []
    try:
        with os.fdopen(os.open(GIVEN, LOOK, dir_fd=root), "rb") as stream:
            given = json.loads(stream.read(2**16))["files"]
        for path, folder, own in below(root, names):
            with os.fdopen(os.open(own, LOOK, dir_fd=folder), "rb") as stream:
                if hashlib.sha256(stream.read(2**22)).hexdigest() != given.get(path):
                    return []
            result.append(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return result if {path.split("/")[0] for path in result} == set(names) else []


def below(root: int, names: list[str]) -> Iterator[tuple[str, int, str]]:
    """Path, folder and name of each file that these entries are or have."""
    for name in names:
        if not stat.S_ISDIR(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
            yield name, root, name
            continue
        with opened(name, root) as folder:
            for path, _, above, own in walk(folder, DEEPEST, f"{name}/"):
                yield path, above, own


def remove(root: int, paths: list[str]) -> bool:
    """Remove files and then their folders; whether those had nothing else."""
    walker = Walker(root)
    for path in paths:
        folder, name = walker.above(path)
        os.unlink(name, dir_fd=folder)
    parts = [path.split("/")[:-1] for path in paths]
    above = {"/".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}
    try:
        for name in sorted(above, key=len, reverse=True):
            folder, last = walker.above(name)
            os.rmdir(last, dir_fd=folder)
    except OSError:
        return False
    return True


def moved(handle: int, name: str, root: int) -> bool:
    """Move one entry, whatever its mode; whether it went. Nothing is overwritten."""
    if has(root, name):
        return False
    info = os.stat(name, dir_fd=handle, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        try:
            os.link(name, name, src_dir_fd=handle, dst_dir_fd=root, follow_symlinks=False)  # refuses a taken name
            os.unlink(name, dir_fd=handle)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            os.rename(name, name, src_dir_fd=handle, dst_dir_fd=root)
        return True
    inner = os.open(name, FOLDER, dir_fd=handle) if info.st_mode & 0o400 else -1
    if inner < 0:
        return False
    try:
        os.fchmod(inner, 0o700)  # its entry `..` changes
        os.rename(name, name, src_dir_fd=handle, dst_dir_fd=root)
    finally:
        os.utime(inner, ns=(info.st_atime_ns, info.st_mtime_ns))
        os.fchmod(inner, info.st_mode & 0o777)
        os.close(inner)
    return True


def drop(root: int) -> None:
    for name in os.listdir(root):
        if name.startswith(STAGING):
            open_up(root, name)
            shutil.rmtree(name, ignore_errors=True)  # of the current folder; follows no link


def open_up(above: int, name: str) -> None:
    """Let the owner change every folder below one."""
    try:
        handle = os.open(name, FOLDER, dir_fd=above)
    except OSError:
        return
    try:
        os.fchmod(handle, 0o700)
        for entry in os.listdir(handle):
            open_up(handle, entry)
    except OSError:
        pass
    finally:
        os.close(handle)
