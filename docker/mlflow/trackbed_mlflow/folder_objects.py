"""Objects as files below a folder."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trackbed_mlflow import name_conflicts
from trackbed_mlflow.errors import FAILED, NO_ANSWER, STAGED, Stop

SETTLED_SECONDS = 2.0  # a file changed more recently may change again without a new time
READ_WHOLE = 8 * 2**20  # bytes: a file up to here is read at once, a larger one while it is asked for
CHUNK = 2**20  # bytes: copied in steps of


class FolderObjects:
    """Objects as files below a folder. Names are relative, with slashes; sizes in bytes."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.renamed: dict[str, str] = {}  # names that `put` could not give, by those that it gave
        self._names = name_conflicts.Names(
            lambda name: (folder / name).is_file(), lambda name: not os.path.lexists(folder / name)
        )

    def listing(self) -> Iterator[tuple[str, int, float]]:
        """Name, size and time of the last change."""
        for top, folders, files in os.walk(self.folder):
            folders.sort()
            for file in sorted(files):
                if file.startswith(STAGED):
                    continue  # an upload that is under way, or was cut off
                path = os.path.join(top, file)
                try:
                    info = os.stat(path)
                except FileNotFoundError:
                    continue  # deleted since
                yield os.path.relpath(path, self.folder), info.st_size, info.st_mtime

    def names(self) -> Iterator[tuple[str, int]]:
        yield from ((name, size) for name, size, _ in self.listing())

    def marked(self) -> Iterator[tuple[str, int, str]]:
        """Name, size and what changes with the content: no program can set a file's ctime. "" where that is unsure."""
        for name, _, _ in self.listing():
            now = time.time()
            try:
                info = os.stat(self.folder / name)
            except FileNotFoundError:
                continue
            sure = info.st_ctime < now - SETTLED_SECONDS
            yield name, info.st_size, f"{info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}" if sure else ""

    def open(self, name: str) -> tuple[int, BinaryIO]:
        """Size and content. A small file that is being rewritten is read again until it stays the same."""
        for _ in range(50):
            stream = (self.folder / name).open("rb")
            before = os.fstat(stream.fileno())
            if before.st_size > READ_WHOLE:
                return before.st_size, stream
            with stream:
                content = stream.read()
                after = os.fstat(stream.fileno())
            if len(content) == before.st_size and before.st_mtime_ns == after.st_mtime_ns:
                return len(content), io.BytesIO(content)
            time.sleep(0.1)  # at most 50 times; the image has no library for it
        raise Stop(NO_ANSWER, f"{name} is being written to all the time")

    def put(self, name: str, size: int, stream: BinaryIO) -> None:
        given = self._given(name)
        if given != name:
            self.renamed[given] = name
        place = self.folder / given
        staged = place.with_name(f"{STAGED}{secrets.token_hex(16)}")
        try:
            with staged.open("xb") as target:
                shutil.copyfileobj(stream, target, CHUNK)
            staged.replace(place)  # a store that ends on the way has the whole object or none
        except BaseException:
            staged.unlink(missing_ok=True)
            raise

    def _given(self, name: str) -> str:
        """The name, or the one instead where a file is in the place of a folder, or a folder in that of the file."""
        given = self._names.of(name)
        for _ in range(name.count("/") + 3):  # each time at another of the folders above it
            try:
                (self.folder / given).parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                given = self._names.below_file(name, given)
                continue
            return self._names.is_folder(name, given) if (self.folder / given).is_dir() else given
        raise Stop(FAILED, f"the folder takes {name!r} by no name")

    def finish(self) -> None:
        os.sync()  # the pointer is moved to these files next

    def drop(self) -> int:
        count = sum(1 for _ in self.names())
        if self.folder.exists():
            shutil.rmtree(self.folder)
        return count
