"""Where a backup repository is stored: small named blobs, written whole or not at all. Here in a folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from helpers import safe_files
from helpers.errors import TrackbedError
from helpers.project.state import make_folder

INCOMING = "incoming"  # a folder's blobs that have no name yet
LEFTOVER = 3600.0  # seconds after which one of these is nobody's any more, where the disk knows no locks
ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def scratch() -> sqlite3.Connection:
    """A database in a file that nobody else sees and that goes with it: for what may be too much for the memory."""
    created = sqlite3.connect("", check_same_thread=False)  # one after the other
    created.execute("PRAGMA journal_mode = OFF")
    return created


class Missing(Exception):
    """There is no such blob, or no plain file of that name."""


class Unreadable(TrackbedError):
    """The blob is there, but the disk or its permissions do not let it be read."""


class Blob(NamedTuple):
    """One of a listing: its size in bytes, and when it was written or moved there, in seconds by the store's clock."""

    path: str
    size: int
    modified: float


class ByContent:
    """A store whose pieces have the names that anybody can compute."""

    def digest(self, content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()


class BlobStore(Protocol):
    """Blobs by path. Safe to use from several threads, except ``begin`` and ``holds``.

    ``move_seconds``: so much later than the time of a blob that was moved it may still be found at its former path.
    """

    @property
    def move_seconds(self) -> float: ...

    def digest(self, content: bytes) -> str:
        """What a piece with this content is named by, 64 digits: its SHA-256, or a keyed one."""

    def begin(self) -> None:
        """Make it ready to be written to."""

    def read(self, path: str, most: int) -> bytes:
        """A blob; one of more than ``most`` bytes is cut behind the first of these. Raises Missing, TrackbedError."""

    def write(self, path: str, content: bytes | bytearray) -> None:
        """Store a blob; it is there whole or not at all, and lasts once ``sync`` has returned."""

    def holds(self, path: str, size: int) -> bool:
        """Whether a lasting blob of that size is there, without reading it. After ``begin``."""

    def names(self, below: str) -> list[str]:
        """The names of the blobs directly below a path."""

    def listed(self, below: str, after: str = "") -> Iterator[Blob]:
        """Every blob below a path, in the order of their paths; those behind ``after``."""

    def modified(self, path: str) -> float:
        """When a blob was written, in seconds by the store's clock. Raises Missing."""

    def move(self, path: str, to: str) -> None:
        """Give a blob another path, and this moment as its time; one that has that path is replaced. Raises Missing.

        Killed half-way, or where the store was too slow, it is at one of the paths, or at both.
        """

    def remove(self, path: str) -> None:
        """See that there is no such blob."""

    def sync(self) -> None:
        """Return when everything written lasts."""


class Folder(ByContent):
    """Blobs as files, 0600 in folders 0700."""

    move_seconds = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed: set[Path] = set()

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def _made(self, path: str) -> Iterator[int]:
        """A descriptor of a folder of the repository, which is made where it is missing.

        Whoever handed the repository over may have put links into it: they would lead our files, and what is cleaned
        up, elsewhere. The repository itself may be a link, its name is ours.
        """
        handle = os.open(self.path, ROOT)
        try:
            for name in filter(None, path.split("/")):
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=handle)
                inner = os.open(name, safe_files.FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    def begin(self) -> None:
        make_folder(self.path, private=True)
        try:
            with self._made(INCOMING) as incoming:
                for name in os.listdir(incoming):
                    with suppress(FileNotFoundError):  # whoever wrote it has just named it
                        if _is_left(name, incoming):
                            os.unlink(name, dir_fd=incoming)
        except OSError as error:
            raise TrackbedError(
                f"{self.path / INCOMING}: {_why(error)}", "choose another destination with --to"
            ) from None

    def read(self, path: str, most: int) -> bytes:
        try:
            # neither links, which lead elsewhere, nor pipes, which would wait
            handle = os.open(self.path / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as stream:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise Missing(path)
                return stream.read(most + 1)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
                raise Missing(path) from None
            raise Unreadable(f"{self.path / path}: {error.strerror}", "is this a backup's folder?") from None

    def write(self, path: str, content: bytes | bytearray) -> None:
        above, _, name = path.rpartition("/")
        target, part = self.path / path, secrets.token_hex(8)
        try:
            make_folder(self.path, private=True)
            with self._made(INCOMING) as incoming, self._made(above) as folder:
                try:
                    with os.fdopen(_incoming(part, incoming), "wb") as stream:
                        stream.write(content)
                        stream.flush()
                        os.fsync(stream.fileno())  # `holds` may believe a name
                        if _is_folder(name, folder):  # whatever it is: no piece
                            os.rename(name, f"{part}.aside", src_dir_fd=folder, dst_dir_fd=incoming)
                        os.replace(part, name, src_dir_fd=incoming, dst_dir_fd=folder)
                except BaseException:
                    with suppress(FileNotFoundError):
                        os.unlink(part, dir_fd=incoming)
                    raise
        except OSError as error:
            raise TrackbedError(
                f"{target}: {_why(error)}", "free the disk or choose another destination with --to"
            ) from None
        self._changed |= {target.parent, target.parent.parent}

    def holds(self, path: str, size: int) -> bool:
        try:
            info = (self.path / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(info.st_mode) and info.st_size == size

    def names(self, below: str) -> list[str]:
        try:
            return sorted(entry.name for entry in (self.path / below).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise TrackbedError(f"{self.path / below}: {error.strerror}", "is this a backup's folder?") from None

    def listed(self, below: str, after: str = "") -> Iterator[Blob]:
        try:
            for entry in sorted(os.scandir(self.path / below), key=lambda result: result.name):
                path = f"{below.rstrip('/')}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    if f"{path}0" > after:  # "0" comes behind "/"
                        yield from self.listed(path, after)
                elif path > after:
                    with suppress(FileNotFoundError):  # moved since the folder was read
                        info = entry.stat(follow_symlinks=False)
                        yield Blob(path, info.st_size, info.st_mtime)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return  # what should be there is missed by whoever reads it
        except OSError as error:
            raise TrackbedError(f"{self.path / below}: {error.strerror}", "is this a backup's folder?") from None

    def modified(self, path: str) -> float:
        try:
            info = (self.path / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(path) from None
        except OSError as error:
            raise Unreadable(f"{self.path / path}: {error.strerror}", "is this a backup's folder?") from None
        if not stat.S_ISREG(info.st_mode):
            raise Missing(path)
        return info.st_mtime

    def move(self, path: str, to: str) -> None:
        above, _, name = path.rpartition("/")
        target, _, new = to.rpartition("/")
        try:
            with self._made(above) as source, self._made(target) as folder:
                os.utime(name, dir_fd=source, follow_symlinks=False)  # the file system's own clock
                os.replace(name, new, src_dir_fd=source, dst_dir_fd=folder)
                with suppress(FileNotFoundError):  # a file server may have taken minutes, in which others looked for it
                    os.utime(new, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise Missing(path) from None
        except OSError as error:
            raise TrackbedError(f"{self.path / path}: {_why(error)}", "may this account change that folder?") from None
        self._changed |= {(self.path / path).parent, (self.path / to).parent}

    def remove(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        try:
            with self._made(above) as folder, suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        except OSError as error:
            raise TrackbedError(f"{self.path / path}: {_why(error)}", "may this account change that folder?") from None
        self._changed.add((self.path / path).parent)

    def sync(self) -> None:
        try:
            for folder in (*sorted(self._changed), self.path, self.path.parent):
                handle = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise TrackbedError(f"{self.path}: {error.strerror}", "choose another destination with --to") from None
        self._changed.clear()


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a backup's folder must not be a link or a file"
    return error.strerror or str(error)


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _incoming(part: str | Path, folder: int | None = None) -> int:
    """A new file of that name, locked as long as it is open: whoever cleans up sees that it is somebody's."""
    while True:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            os.stat(part, dir_fd=folder, follow_symlinks=False)
            return handle
        except FileNotFoundError:
            os.close(handle)  # removed between the two


def _is_left(entry: str | Path, folder: int | None = None) -> bool:
    """Whether the backup that wrote this has ended before it could name it."""
    if not stat.S_ISREG(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return os.fstat(handle).st_mtime < time.time() - LEFTOVER
    finally:
        os.close(handle)
