"""Files and folders that root makes or changes where another account may have been: by directory descriptors, no links.

A name is only trusted in a folder that nobody but root can change. What lies deeper is opened without following links,
looked at through its descriptor, and changed through the same descriptor.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import TrackbedError

MOST_LINKS = 40  # as the kernel follows
DEEPEST = 400  # levels of folders; each holds a descriptor while its entries are gone through
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LOOK = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK) | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Handover:
    """How many entries got their new owner, and how many were left: links, files with several names, others' files."""

    changed: int = 0
    left: int = 0


@contextmanager
def opened(name: str | Path, folder: int | None = None) -> Iterator[int]:
    """A descriptor of a folder that is no link, below the one of ``folder``."""
    handle = os.open(name, FOLDER, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


def is_folder(path: Path, uid: int) -> bool:
    """Whether ``path`` is a folder of that account itself, no link, that nobody else may write to."""
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == uid and not info.st_mode & 0o022


def owner(path: Path) -> int:
    """The uid of what is at ``path`` itself; -1 when there is nothing."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return -1


def is_empty(path: Path) -> bool:
    """Whether a folder has no entries, or is no folder."""
    try:
        with opened(path) as handle, os.scandir(handle) as entries:
            return next(entries, None) is None
    except OSError:
        return True


def own_folder(path: Path, mode: int) -> None:
    """A folder of this process's account at ``path``, with exactly ``mode``. Its parent is trusted; it may not be.

    Raises TrackbedError for a link, a file or another account's folder: nothing is done to those.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        with opened(path) as handle:
            info = os.fstat(handle)
            if info.st_uid == os.geteuid():
                if stat.S_IMODE(info.st_mode) != mode:
                    os.fchmod(handle, mode)
                return
    except NotADirectoryError:  # also what a link gives
        pass
    raise TrackbedError(
        f"{path} belongs to someone else, or is a link or a file",
        f"remove it (ls -ld {path} shows whose it is), or set STATE_DIR to another folder",
    )


def give_folder(path: Path, uid: int, gid: int, mode: int) -> Handover:
    """A folder at ``path`` for another account; what an earlier account of it owned below it is given on.

    ``path`` lies in a folder that only root can change. Raises TrackbedError for a link, a file, and for a folder of
    root that has entries: those may be anybody's.
    """
    given = Handover()
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    try:
        with opened(path) as handle:
            info = os.fstat(handle)
            if info.st_uid not in (uid, 0):
                _give_entries(handle, info.st_uid, uid, gid, given, 0)
            elif info.st_uid != uid and not is_empty(path):
                raise TrackbedError(
                    f"{path} belongs to root, and its service could not write to it", f"chown -hR {uid}:{gid} {path}"
                )
            if (info.st_uid, info.st_gid) != (uid, gid):
                os.fchown(handle, uid, gid)  # last: an interrupted walk is taken up again
            if stat.S_IMODE(os.fstat(handle).st_mode) != mode:
                os.fchmod(handle, mode)
    except NotADirectoryError:
        raise TrackbedError(
            f"{path} is a link or a file, must be a folder",
            "put a folder in its place; one of another disk: mount --bind",
        ) from None
    return given


def give_tree(folder: int, old: int, uid: int, gid: int) -> Handover:
    """Give on what ``old`` owns at and below a folder; ``folder`` may be a descriptor of ``LOOK``."""
    given = Handover()
    with opened(".", folder) as handle:
        if os.fstat(handle).st_uid == old:
            _give_entries(handle, old, uid, gid, given, 0)
            os.fchown(handle, uid, gid)
            given.changed += 1
    return given


def _give_entries(folder: int, old: int, uid: int, gid: int, given: Handover, depth: int) -> None:
    for name in os.listdir(folder):
        try:
            handle = os.open(name, LOOK, dir_fd=folder)
        except OSError:
            given.left += 1
            continue
        try:
            info = os.fstat(handle)
            if stat.S_ISDIR(info.st_mode) and info.st_uid in (old, uid) and depth < DEEPEST:
                with opened(name, folder) as inner:
                    if os.path.samestat(os.fstat(inner), info):
                        _give_entries(inner, old, uid, gid, given, depth + 1)
                        os.fchown(inner, uid, gid)
                        given.changed += 1
                        continue
            elif stat.S_ISREG(info.st_mode) and info.st_uid == old and info.st_nlink == 1:
                chown(handle, uid, gid)
                given.changed += 1
                continue
            given.left += info.st_uid != uid and not stat.S_ISLNK(info.st_mode)
        except OSError:
            given.left += 1
        finally:
            os.close(handle)


def below(folder: int, uid: int, depth: int = 0) -> Generator[tuple[int, os.stat_result], None, None]:
    """All below a folder, as descriptors of ``LOOK`` that are open for one step, with what they are; links too.

    Only folders that ``uid`` owns are gone into; what cannot be opened is passed over. The caller bounds and closes it.
    """
    with suppress(OSError), opened(".", folder) as inner:
        for name in os.listdir(inner):
            with suppress(OSError):
                handle = os.open(name, LOOK, dir_fd=inner)
                try:
                    info = os.fstat(handle)
                    yield handle, info
                    if stat.S_ISDIR(info.st_mode) and info.st_uid == uid and depth < DEEPEST:
                        yield from below(handle, uid, depth + 1)
                finally:
                    os.close(handle)


def chown(handle: int, uid: int, gid: int) -> None:
    """Give away what a descriptor of ``LOOK`` stands for."""
    os.chown(f"/proc/self/fd/{handle}" if hasattr(os, "O_PATH") else handle, uid, gid)


def chmod(handle: int, mode: int) -> None:
    """Change the mode of what a descriptor of ``LOOK`` stands for."""
    os.chmod(f"/proc/self/fd/{handle}" if hasattr(os, "O_PATH") else handle, mode)


def write(path: Path, content: bytes, mode: int, uid: int = -1, gid: int = -1) -> None:
    """Put a file at ``path`` in one step, owner and mode included; what is there under that name is not opened."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            if (uid, gid) != (-1, -1):
                os.fchown(handle, uid, gid)
            os.fchmod(handle, mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_file(path: Path, content: bytes, mode: int, uid: int) -> bool:
    """Whether ``path`` is that account's file of its own with this content and mode."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(handle, "rb") as stream:
        info = os.fstat(handle)
        return (
            stat.S_ISREG(info.st_mode)
            and info.st_uid == uid
            and info.st_nlink == 1
            and stat.S_IMODE(info.st_mode) == mode
            and info.st_size == len(content)
            and stream.read(len(content) + 1) == content
        )


def remove(path: Path) -> bool:
    """Remove what is at ``path``, a tree or a link itself; whether it is gone. No link below it is followed."""
    if os.path.lexists(path):
        # rm: a tree that a service's account made may be deeper than Python's own recursion goes
        subprocess.run(
            ["rm", "-rf", "--", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=3600,
            check=False,
        )
    return not os.path.lexists(path)


def changeable(path: Path, accounts: set[int]) -> tuple[Path, str] | None:
    """The folder at or above ``path`` that one of ``accounts`` or everybody can change, and who that is; else None."""
    for folder in (path, *path.parents):
        try:
            info = os.stat(folder)
        except OSError:
            continue  # not there yet
        if info.st_uid in accounts and info.st_uid != 0:
            return folder, f"uid {info.st_uid}"
        if info.st_mode & 0o002 and not info.st_mode & stat.S_ISVTX:
            return folder, "everybody"
    return None


def is_roots_alone(path: Path) -> bool:
    """Whether nobody but root can change what is at ``path``, or put something else there. Raises OSError."""
    for place in (path, path.resolve()):
        for folder in (place, *place.parents):
            info = os.lstat(folder)
            others = info.st_mode & (0o002 if info.st_gid == 0 else 0o022)
            kept = stat.S_ISLNK(info.st_mode) or (info.st_mode & stat.S_ISVTX and folder != place)
            if info.st_uid != 0 or (others and not kept):
                return False
    return True


def of_account(path: Path, accounts: set[int]) -> Path | None:
    """What one of ``accounts`` owns at or above ``path``, a link too: it may lead elsewhere at any moment."""
    return next((folder for folder in (path, *path.parents) if owner(folder) in accounts), None)


def make_way(path: Path, trusted: set[int]) -> tuple[int, bool]:
    """Walk to ``path`` by descriptors and make the folders that are missing; gives a descriptor of it and whether the
    last one was made. The caller closes it.

    Links are followed where root or one of ``trusted`` made them; behind one that is not root's nothing is made.
    Raises OSError.
    """
    handle, created, links, theirs = os.open("/", LOOK | os.O_DIRECTORY), False, 0, False
    names = list(reversed(path.parts[1:]))
    try:
        while names:
            name = names.pop()
            try:
                info = os.stat(name, dir_fd=handle, follow_symlinks=False)
            except FileNotFoundError:
                if theirs:
                    raise
                os.mkdir(name, 0o755, dir_fd=handle)
                created = True
                info = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                links, theirs = links + 1, theirs or info.st_uid != 0
                if info.st_uid not in {0, *trusted} or links > MOST_LINKS:
                    raise PermissionError(errno.EPERM, f"{name} in it is a link of uid {info.st_uid}", str(path))
                target = Path(os.readlink(name, dir_fd=handle))
                names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                if target.is_absolute():
                    os.close(handle)
                    handle = os.open("/", LOOK | os.O_DIRECTORY)
                continue
            inner = os.open(name, LOOK | os.O_DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = inner
        return handle, created
    except BaseException:
        os.close(handle)
        raise
