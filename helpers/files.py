"""Files that outlast a crash: one is replaced in one step, many are synced at once."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from pathlib import Path


def replace(path: Path, data: bytes, mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
    """Put ``data`` there, on the disk before it has its name.

    0600 without ``mode``. ``owner``: uid and gid, where root writes for somebody.
    The name itself outlasts a power cut once its folder is synced. Raises OSError; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            if mode is not None:
                os.fchmod(stream.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_file_system(folder: Path) -> None:
    """See that all is on the disk that was written to the file system of ``folder``: one sync for many small files.

    Raises OSError where the disk took not all.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "syncfs"):  # not Linux
            os.sync()
        elif library.syncfs(handle):
            number = ctypes.get_errno()
            if number not in (errno.ENOSYS, errno.EPERM):  # a sandbox may refuse it; with EPERM the disk says nothing
                raise OSError(number, os.strerror(number), str(folder))
            os.sync()
    finally:
        os.close(handle)
