"""What was written since the last clean stop: a journal beside the artifacts, and a look at all of it after an unclean
one. The artifacts are on the disk before they are acknowledged: the journal itself may lose its last lines."""

from __future__ import annotations

import fcntl
import json
import os
import queue
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from trackbed_mlflow.errors import say, sync_path

FOLDER = ".written"  # beside the folder of the artifacts, never in it
RUNNING, JOURNAL, EARLIER, UNCHECKED, RESULT = "running", "journal", "journal.earlier", "unchecked", "result.json"
LARGEST = 8 * 2**20  # bytes of a journal, about 60,000 artifacts; the one before it is kept too
READ = 2**20
BUDGET = 20 * 2**30  # bytes that a check reads, the newest first; of the rest it looks at the sizes
NAMED = 20  # damaged artifacts that a result names


def checksum(path: str | Path) -> tuple[int, int, int]:
    """Size in bytes, CRC-32 and inode of a file's content. A pipe in its place is empty, and hangs nobody."""
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        size, crc = 0, 0
        while content := stream.read(READ):
            size += len(content)
            crc = zlib.crc32(content, crc)
        return size, crc, os.fstat(stream.fileno()).st_ino


class Journal:
    """One JSON line [name, size, CRC-32] per artifact below ``root``, [name, null, null] for what was removed.

    Written in a thread of its own: an upload does not wait for its checksum.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / FOLDER
        self._queue: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
        self._pid = 0
        self._lock = threading.Lock()

    def wrote(self, path: str) -> None:
        self._put(path, True)

    def removed(self, path: str) -> None:
        self._put(path, False)

    def note_removed(self, path: str) -> None:
        """The same, on the disk when this returns, unless that is full."""
        with suppress(OSError):
            self.note(path, False)
            sync_path(str(self.folder / JOURNAL))

    def _put(self, path: str, there: bool) -> None:
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():  # threads do not survive a fork
                    self._queue = queue.SimpleQueue()
                    threading.Thread(target=self._work, daemon=True).start()
                    self._pid = os.getpid()
        self._queue.put((path, there))

    def _work(self) -> None:
        while True:
            path, existing = self._queue.get()
            try:
                self.note(path, existing)
            except OSError:
                continue  # gone again, or a disk that is full: nothing is promised of the journal

    def note(self, path: str, there: bool = True) -> None:
        """Append one line."""
        name = os.path.relpath(path, self.root)
        entry: list[Any] = [name, None, None]
        if there:
            size, crc, inode = checksum(path)
            if os.stat(path).st_ino != inode:
                return  # replaced meanwhile: that has a line of its own
            entry = [name, size, crc]
        with self._open() as stream:
            stream.write(json.dumps(entry).encode() + b"\n")
            if stream.tell() > LARGEST:
                self._rotate()

    def _open(self) -> Any:
        try:
            return open(self.folder / JOURNAL, "ab", buffering=0)
        except FileNotFoundError:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            return open(self.folder / JOURNAL, "ab", buffering=0)

    def _rotate(self) -> None:
        with open(self.folder / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self.folder / JOURNAL).stat().st_size > LARGEST:  # no other process was first
                (self.folder / JOURNAL).replace(self.folder / EARLIER)

    def begin(self) -> bool:
        """A start: True when the last stop was no clean one, and then what was written before is kept for a check."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        unclean = (self.folder / RUNNING).exists() or (self.folder / UNCHECKED).exists()  # a check that was cut off
        if unclean:
            for name in (EARLIER, JOURNAL):
                self._keep(name)
        else:
            (self.folder / RESULT).unlink(missing_ok=True)  # of a time before the last clean stop
        (self.folder / RUNNING).touch(mode=0o600)
        for path in (self.folder / RUNNING, self.folder, self.root):
            sync_path(str(path))
        return unclean

    def _keep(self, name: str) -> None:
        """Append a journal to those that are to be checked: a cut may come in the middle of a check."""
        try:
            content = (self.folder / name).read_bytes()
        except FileNotFoundError:
            return
        with open(self.folder / UNCHECKED, "ab") as stream:
            stream.write(content[-2 * LARGEST :] + b"\n")  # its last line may have no end
            stream.flush()
            os.fsync(stream.fileno())
        (self.folder / name).unlink()

    def end(self) -> None:
        """A clean stop: what was written is on the disk, so there is nothing to check."""
        for name in (EARLIER, JOURNAL, RUNNING):
            (self.folder / name).unlink(missing_ok=True)

    def check(self) -> dict[str, Any]:
        """Compare what the kept journals name with what is there, and keep the result."""
        result: dict[str, Any] = {"at": time.time(), **compare(self.root, self._unchecked())}
        temporary = self.folder / (RESULT + ".new")
        temporary.write_text(json.dumps(result))
        temporary.replace(self.folder / RESULT)
        (self.folder / UNCHECKED).unlink(missing_ok=True)
        return result

    def recheck(self) -> None:
        """`check`, at a low priority, and what it found as one line of the log."""
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # Linux: of this thread alone
        try:
            result = self.check()
        except OSError as error:
            say(f"what was written before the unclean stop could not be checked: {error}")
            return
        say(
            f"after an unclean stop: {result['checked']} artifacts checked, {result['missing']} missing, "
            f"{result['damaged']} damaged {' '.join(map(ascii, result['names']))}".strip()
        )

    def _unchecked(self) -> Iterator[bytes]:
        try:
            with open(self.folder / UNCHECKED, "rb") as stream:
                yield from stream
        except FileNotFoundError:
            return

    def result(self) -> dict[str, Any]:
        """The result of the last check, {} when there is none."""
        try:
            data = json.loads((self.folder / RESULT).read_text())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}


def compare(
    root: Path,
    lines: Iterator[bytes],
    budget: int = BUDGET,
    look: Callable[[str | Path], tuple[int, int, int]] = checksum,
) -> dict[str, Any]:
    """Counts of what is well, and the names of what is missing or damaged (the first NAMED of each)."""
    expected = _newest(lines)
    missing, damaged, by_size = list[str](), list[str](), 0
    for name, (size, crc) in expected.items():
        path = root / name
        try:
            whole = budget >= size
            if whole:
                budget -= size
                well = look(path)[:2] == (size, crc)
            else:
                by_size += 1
                well = path.stat().st_size == size
        except FileNotFoundError:
            missing.append(name)
            continue
        except OSError:
            well = False
        if not well:
            damaged.append(name)
    return {
        "checked": len(expected),
        "by_size": by_size,
        "missing": len(missing),
        "damaged": len(damaged),
        "names": sorted(missing[:NAMED] + damaged[:NAMED]),
    }


def _newest(lines: Iterator[bytes]) -> dict[str, tuple[int, int]]:
    """Size and CRC-32 of what should be there, the newest first."""
    entries: list[tuple[str, int | None, int | None]] = []
    for line in lines:
        try:
            name, size, crc = json.loads(line)
            entries.append((str(name), None if size is None else int(size), None if size is None else int(crc)))
        except (ValueError, TypeError):
            continue  # the end of what a cut left of the journal
    expected: dict[str, tuple[int, int]] = {}
    gone: set[str] = set()
    for name, size, crc in reversed(entries):
        if size is None or crc is None:
            gone.add(name)
        elif name not in expected and gone.isdisjoint((name, *map(str, PurePosixPath(name).parents))):
            expected[name] = (size, crc)
    return expected
