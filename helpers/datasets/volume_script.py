"""The data sets of a volume: what is there, one more, one less. Runs where the volume is, and alone writes there.

It gets here on stdin, as text with the modules that it imports before it (sent_program.py), and may meet any Python
from 3.11 on. Nothing of the project is there. No link is followed: every file is opened from the folder above it. Each
answer is a JSON line; ["busy"] may come at any time.

    list                ["set", FOLDER, FILES, BYTES, NOTE] for each folder; ["left", FOLDER] for one whose filling or
                        removal was interrupted; at last ["free", BYTES]
    add FOLDER          says ["taken", NOTE] where it is there; else ["has", NAME, SIZE, SHA-256] for each file that an
                        interrupted filling left, and ["ready", FREE]. Then takes ["file", NAME, SIZE] with so many
                        bytes, ["keep", NAME], and ["end", NOTE, SUM]. What was not named goes, all is read back from
                        the disk, and the folder gets its name in one step: ["done", FILES, BYTES]
    remove FOLDER       and what an interrupted one of both left of it: ["gone", FILES]

SUM is that of helpers/data/checksum.py. NOTE is the text in the folder's `.trackbed.json`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from helpers.data.folder_walk import CHUNK, FOLDER, LOOK, entries, opened, walk

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NOTE = ".trackbed.json"
ADDING = ".trackbed-adding-"
REMOVING = ".trackbed-removing-"
PART = ".trackbed-part"
OWN = ("lost+found",)
LARGEST_NOTE = 2**16
DEEPEST = 20
told = 0.0


def say(*line: Any) -> None:
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n")


def tick() -> None:
    """Say now and then that it is at work: who hears nothing for minutes gives up."""
    global told
    if time.monotonic() - told > 5:
        told = time.monotonic()
        say("busy")
        sys.stdout.buffer.flush()


def files(folder: int) -> Iterator[tuple[str, int, int, str]]:
    """Every plain file below: its path, size, and the folder and name to open it by."""
    for path, info, above, name in walk(folder, DEEPEST):
        if stat.S_ISREG(info.st_mode):
            yield path, info.st_size, above, name


def sha256(folder: int, name: str) -> str:
    total = hashlib.sha256()
    with os.fdopen(os.open(name, LOOK, dir_fd=folder), "rb") as stream:
        while data := stream.read(CHUNK):
            total.update(data)
            tick()
    return total.hexdigest()


def note(folder: int) -> str:
    try:
        with os.fdopen(os.open(NOTE, LOOK, dir_fd=folder), "rb") as stream:
            return stream.read(LARGEST_NOTE).decode("utf-8", "replace")
    except OSError:
        return ""


def free(root: int) -> int:
    disk = os.fstatvfs(root)
    return disk.f_bavail * disk.f_frsize


def show(root: int) -> None:
    for name, info in entries(root):
        if not stat.S_ISDIR(info.st_mode) or name in OWN:
            continue
        if begin := next((one for one in (ADDING, REMOVING) if name.startswith(one)), ""):
            say("left", name.removeprefix(begin))
            continue
        with opened(name, root) as folder:
            count = size = 0
            for path, length, _, _ in files(folder):
                count, size = count + (path != NOTE), size + (length if path != NOTE else 0)
            say("set", name, count, size, note(folder))
    say("free", free(root))


def alone(root: int, name: str, folder: int) -> None:
    """Nobody else fills or removes this folder as long as it is open. Other projects may have the same volume."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another `invoke data.add` or `invoke data.remove` is at work on it now")
    except OSError:
        pass  # a disk of the network without locks
    in_place(root, name, folder)


def in_place(root: int, name: str, folder: int) -> None:
    """An open folder has still its name: it was not removed, nor got its last name, while it was waited for."""
    try:
        if os.path.samestat(os.stat(name, dir_fd=root, follow_symlinks=False), os.fstat(folder)):
            return
    except FileNotFoundError:
        pass
    sys.exit("another command has added or removed it meanwhile")


class Filling:
    """A folder that has another name until it is whole."""

    def __init__(self, root: int, staging: int) -> None:
        self.root, self.staging = root, staging
        owner = os.fstat(root)
        self.uid, self.gid = owner.st_uid, owner.st_gid
        self.named: set[str] = set()

    def _given(self, handle: int, mode: int) -> None:
        os.fchmod(handle, mode)
        if (self.uid, self.gid) != (os.geteuid(), os.getegid()) and os.geteuid() == 0:
            os.fchown(handle, self.uid, self.gid)

    @contextmanager
    def parent(self, path: str, make: bool) -> Iterator[tuple[int, str]]:
        """The folder of a path, made where it is missing."""
        *above, name = path.split("/")
        handle = os.dup(self.staging)
        try:
            for word in above:
                if make:
                    try:
                        os.mkdir(word, 0o755, dir_fd=handle)
                    except FileExistsError:
                        pass
                inner = os.open(word, FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
                if make:
                    self._given(handle, 0o755)
            yield handle, name
        finally:
            os.close(handle)

    def take(self, path: str, size: int) -> None:
        with self.parent(path, make=True) as (folder, name):
            for old in (PART, name):
                try:
                    os.unlink(old, dir_fd=folder)
                except FileNotFoundError:
                    pass
            with os.fdopen(os.open(PART, NEW, 0o600, dir_fd=folder), "wb") as stream:
                while size:
                    data = sys.stdin.buffer.read(min(size, CHUNK))
                    if not data:
                        sys.exit("the input ended early")
                    stream.write(data)
                    size -= len(data)
                stream.flush()
                self._given(stream.fileno(), 0o644)
            os.rename(PART, name, src_dir_fd=folder, dst_dir_fd=folder)
        self.named.add(path)

    def clear(self, folder: int, path: str = "") -> bool:
        """Remove what was not named; whether anything is left."""
        left = False
        for name, info in entries(folder):
            inner = f"{path}/{name}" if path else name
            if stat.S_ISDIR(info.st_mode):
                with opened(name, folder) as below:
                    kept = self.clear(below, inner)
                if kept:
                    left = True
                else:
                    os.rmdir(name, dir_fd=folder)
            elif inner in self.named:
                left = True
            else:
                os.unlink(name, dir_fd=folder)
        return left

    def end(self, name: str, text: str, expected: str) -> None:
        self.clear(self.staging)
        os.sync()  # one for all: fsync of each of many small files takes minutes on a slow disk
        total = count = size = 0
        for path, length, folder, own in files(self.staging):
            line = f"{sha256(folder, own)} {length} {path}".encode("utf-8", "surrogateescape")
            total = (total + int.from_bytes(hashlib.sha256(line).digest(), "big")) % 2**256
            count, size = count + 1, size + length
        if f"{total:064x}" != expected:
            sys.exit("what the disk gives back is not what was written")
        with os.fdopen(os.open(NOTE, NEW, 0o600, dir_fd=self.staging), "wb") as stream:
            stream.write(text.encode())
            stream.flush()
            self._given(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        self._given(self.staging, 0o755)
        os.fsync(self.staging)
        in_place(self.root, ADDING + name, self.staging)
        os.rename(ADDING + name, name, src_dir_fd=self.root, dst_dir_fd=self.root)
        os.fsync(self.root)
        say("done", count, size)


def add(root: int, name: str) -> None:
    try:
        with opened(name, root) as folder:
            say("taken", note(folder))
        return
    except FileNotFoundError:
        pass
    shutil.rmtree(REMOVING + name, ignore_errors=True, dir_fd=root)  # a removal that was interrupted
    try:
        os.mkdir(ADDING + name, 0o700, dir_fd=root)
    except FileExistsError:
        pass
    with opened(ADDING + name, root) as staging:
        alone(root, ADDING + name, staging)
        filling = Filling(root, staging)
        for path, size, folder, own in files(staging):
            if own not in (PART, NOTE):
                say("has", path, size, sha256(folder, own))
        say("ready", free(root))
        sys.stdout.flush()
        while line := sys.stdin.buffer.readline():
            kind, *words = json.loads(line)
            if kind == "file":
                filling.take(*words)
            elif kind == "keep":
                filling.named.add(*words)
            elif kind == "end":
                filling.end(name, *words)
                return
    # the other side was interrupted: what is there stays for the next time


def remove(root: int, name: str) -> None:
    count = 0
    with suppress(FileNotFoundError), opened(ADDING + name, root) as folder:
        alone(root, ADDING + name, folder)
        count += counted(folder)
        shutil.rmtree(ADDING + name, dir_fd=root)
    for own in (REMOVING + name, name):
        with suppress(FileNotFoundError):
            with opened(own, root) as folder:
                count += counted(folder)
            # a name first that no data set has: what is half removed is not found by anybody, nor filled again. A lock
            # would not do: whoever reads the data set could hold it
            if own == name:
                own = REMOVING + name
                os.rename(name, own, src_dir_fd=root, dst_dir_fd=root)
            shutil.rmtree(own, dir_fd=root)
    say("gone", count)


def counted(folder: int) -> int:
    return sum(1 for path, _, _, _ in files(folder) if path != NOTE)


def main(place: str, task: str, *words: str) -> None:
    os.umask(0o022)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of the input ends it too, with what has come written
    root = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if task == "list":
        show(root)
    elif task == "add":
        add(root, *words)
    else:
        remove(root, *words)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[2:])
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        sys.exit("the disk is full" if full else f"{error.filename or 'the volume'}: {error.strerror}")
