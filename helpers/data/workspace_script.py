"""The notebook's files to and from a backup. Runs where the notebook runs, as its account: root reads nothing of them.

It gets here on stdin, as text with the modules that it imports before it (sent_program.py), and may meet any Python
from 3.9 on. Nothing of the project is there. No link is followed: every file is opened from the folder above it. What
it says is the notebook's word, which the caller checks.

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

import errno
import fnmatch
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from typing import BinaryIO

from helpers.data.folder_walk import CHUNK, FOLDER, LOOK
from helpers.data.workspace_parts import DEEPEST, HIDDEN, Line, Walker, has, say, stays_inside
from helpers.data.workspace_restoring import drop, place, write

LONGEST = 4000  # bytes of a path
UNREADABLE = "cannot be read"
AT_REST = 2 * 10**9  # ns since the last change, after which another change has another time


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
