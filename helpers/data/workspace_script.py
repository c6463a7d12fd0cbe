"""The notebook's files to and from a backup. Runs where the notebook runs, as its account: root reads nothing of them.

It gets here on stdin, as text, and may meet any Python from 3.9 on. Nothing of the project is there. No link is
followed: every file is opened from the folder above it. What it says is the notebook's word, which the caller checks.

    list RULES          what is there, as JSON lines: ["file", NAME, SIZE, MODE, MTIME, MARK], ["left", NAME, WHY,
                        SIZE], ["link", NAME, TARGET, MTIME], ["dir", NAME, MODE, MTIME] after what is in it;
                        at last ["end", COUNT]
    read RULES          for each name on stdin ["file", NAME, SIZE, MODE, MTIME], so many bytes and ["done", WHY], or
                        ["gone", NAME, WHY]
    write BYTES         from stdin into a hidden folder: ["file", NAME, SIZE] and the bytes, ["list", SIZE] and the
                        lines, ["end"]; says what the disk gives back, ["sum", SHA-256, SIZE, NAME], then that folder
    place FOLDER NAME   moves what is in that folder into the workspace where it has no files, else names the folder so
    drop                removes what an interrupted `write` left
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
FOLDER = LOOK | os.O_DIRECTORY
HIDDEN = ".trackbed-"
STAGING = HIDDEN + "restore-"
GIVEN = HIDDEN + "examples"  # what docker/jupyter/trackbed_notebook/examples.py gave to a new workspace, with sums
NO_FILES = (".ipynb_checkpoints", "lost+found")  # a workspace with no more than these is empty
ACTS = "jupyter*_config.*"  # JupyterLab runs it at its next start where it lies at the top
DEEPEST = 100  # folders within folders: each holds a descriptor
LONGEST = 4000  # bytes of a path
FREE = 512 * 2**20  # bytes of the disk that a restore leaves
UNREADABLE = "cannot be read"
CHUNK = 2**20
AT_REST = 2 * 10**9  # ns since the last change, after which another change has another time
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


class Rules:
    """What a backup leaves out, and why."""

    def __init__(self, text: str) -> None:
        given = json.loads(text)
        self.patterns, self.largest = [str(word) for word in given["patterns"]], int(given["largest"])

    def why_left(self, name: str, path: str) -> str:
        for pattern in self.patterns:
            if fnmatch.fnmatchcase(path if "/" in pattern else name, pattern):
                return f"matches {pattern}"
        return "its path is too long" if len(os.fsencode(path)) > LONGEST else ""


def reason(error: OSError) -> str:
    return f"{UNREADABLE}: {error.strerror}"


def mark(info: os.stat_result) -> str:
    if time.time_ns() - max(info.st_mtime_ns, info.st_ctime_ns) < AT_REST:
        return ""
    return f"{info.st_mtime_ns:x}-{info.st_ctime_ns:x}-{info.st_ino:x}-{info.st_dev:x}"


class Listing:
    """Goes through a workspace and says what is there."""

    def __init__(self, root: int, rules: Rules) -> None:
        self.root, self.rules, self.device, self.count = root, rules, os.fstat(root).st_dev, 0

    def say(self, line: Line) -> None:
        self.count += 1
        say(line)

    def folder(self, handle: int, above: str, depth: int) -> None:
        with os.scandir(handle) as entries:
            for entry in entries:
                path = f"{above}{entry.name}"
                if not above and entry.name.startswith(HIDDEN):
                    continue  # a restore's or a check's own
                try:
                    self.entry(handle, entry.name, path, depth)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.say(["left", path, reason(error), 0])

    def entry(self, handle: int, name: str, path: str, depth: int) -> None:
        info = os.stat(name, dir_fd=handle, follow_symlinks=False)
        size = info.st_size if stat.S_ISREG(info.st_mode) else 0
        if why := self.rules.why_left(name, path):
            self.say(["left", path, why, size])
        elif stat.S_ISREG(info.st_mode):
            if size > self.rules.largest:
                self.say(["left", path, "is too large", size])
            else:
                self.say(["file", path, size, info.st_mode & 0o777, info.st_mtime_ns, mark(info)])
        elif stat.S_ISLNK(info.st_mode):
            target = os.readlink(name, dir_fd=handle)
            if stays_inside(path, target):
                self.say(["link", path, target, info.st_mtime_ns])
            else:
                self.say(["left", path, "is a link that leads out of the workspace", 0])
        elif stat.S_ISDIR(info.st_mode):
            self.below(handle, name, path, depth)
        else:
            self.say(["left", path, "is no file, folder or link", 0])

    def below(self, above: int, name: str, path: str, depth: int) -> None:
        handle = os.open(name, FOLDER, dir_fd=above)
        try:
            info = os.fstat(handle)
            if info.st_dev != self.device:
                self.say(["left", path, "is another disk, mounted there", 0])
            elif depth >= DEEPEST:
                self.say(["left", path, "is too deep", 0])
            elif has(handle, "pyvenv.cfg") or has(handle, "conda-meta"):
                self.say(["left", path, "is a virtual environment", 0])
            else:
                self.folder(handle, f"{path}/", depth + 1)
                self.say(["dir", path, info.st_mode & 0o777, info.st_mtime_ns])
        finally:
            os.close(handle)


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


def read(root: int, rules: Rules, source: BinaryIO) -> None:
    """The files of the names on stdin, which are all read first: who sends them reads nothing yet."""
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(source, spool, CHUNK)
        spool.seek(0)
        walker = Walker(root)
        for line in spool:
            name = str(json.loads(line))
            try:
                handle = walker.open(name, LOOK)
            except OSError as error:
                say(["gone", name, "" if error.errno == errno.ENOENT else reason(error)])
                continue
            with os.fdopen(handle, "rb", CHUNK) as stream:
                one(name, stream, rules)


def one(name: str, stream: BinaryIO, rules: Rules) -> None:
    info = os.fstat(stream.fileno())
    if not stat.S_ISREG(info.st_mode) or info.st_size > rules.largest:
        say(["gone", name, "was replaced while the backup ran"])
        return
    say(["file", name, info.st_size, info.st_mode & 0o777, info.st_mtime_ns])
    left, why = info.st_size, ""
    try:
        while left and (data := stream.read(min(left, CHUNK))):
            sys.stdout.buffer.write(data)
            left -= len(data)
        after = os.fstat(stream.fileno())
        if left or (after.st_size, after.st_mtime_ns) != (info.st_size, info.st_mtime_ns):
            why = "changed while it was read"
    except OSError as error:
        why = reason(error)
    while left:
        sys.stdout.buffer.write(bytes(min(left, CHUNK)))
        left -= min(left, CHUNK)
    say(["done", why])


class Restoring:
    """Writes a backup's files into a hidden folder of the workspace."""

    def __init__(self, root: int, size: int) -> None:
        self.root, self.place, self.since = root, STAGING + secrets.token_hex(8), 0
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
                if self.since >= 64 * CHUNK:
                    self.since = 0
                    self.room(0)

    def read_back(self) -> None:
        """The sums of what the disk has."""
        try:
            ctypes.CDLL(None).syncfs(self.handle)
        except (AttributeError, OSError):
            os.sync()
        for name, handle in files(self.handle, "", 0):
            sha, size = hashlib.sha256(), 0
            with os.fdopen(handle, "rb", 0) as stream:
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


def files(handle: int, above: str, depth: int) -> Iterator[tuple[str, int]]:
    """Path and descriptor of each file below a folder."""
    with os.scandir(handle) as entries:
        for entry in entries:
            inner = os.open(entry.name, LOOK, dir_fd=handle)
            if stat.S_ISDIR(os.fstat(inner).st_mode):
                yield from files(inner, f"{above}{entry.name}/", depth + 1)
                os.close(inner)
            else:
                yield f"{above}{entry.name}", inner


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
        for name in names:
            handle = os.open(name, LOOK, dir_fd=root)
            is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            for path, one in files(handle, f"{name}/", 1) if is_folder else [(name, handle)]:
                with os.fdopen(one, "rb") as stream:
                    if hashlib.sha256(stream.read(2**22)).hexdigest() != given.get(path):
                        return []
                result.append(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return result if {path.split("/")[0] for path in result} == set(names) else []


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


def main(folder: str, task: str, *words: str) -> None:
    os.chdir(folder)
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if task == "list":
        listing = Listing(root, Rules(words[0]))
        listing.folder(root, "", 0)
        say(["end", listing.count])
    elif task == "read":
        read(root, Rules(words[0]), sys.stdin.buffer)
    elif task == "write":
        write(root, int(words[0]), sys.stdin.buffer)
    elif task == "place":
        place(root, words[0], words[1])
    else:
        drop(root)
    sys.stdout.buffer.flush()


try:
    main(*sys.argv[2:])
except OSError as problem:
    raise SystemExit(f"{problem.filename or 'the workspace'}: {problem.strerror}") from None
