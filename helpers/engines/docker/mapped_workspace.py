"""The notebook's folder on an engine with user namespaces: for the person on the machine and for the notebook alike."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import shutil
import struct
from collections.abc import Collection
from pathlib import Path

from helpers import notebook, safe_files
from helpers.engines.docker.id_mapping import IdMapping

# a POSIX access list as Linux keeps it (include/uapi/linux/posix_acl_xattr.h): version 2, then tag, rights, id
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
NOBODY = 0xFFFFFFFF


def person(ids: IdMapping) -> int:
    """Whose folder it should be: the caller's, behind sudo whoever called that; with rootless the engine's own user."""
    return ids.own if ids.rootless else os.geteuid() or int(os.environ.get("SUDO_UID", 0))


def make(place: Path, ids: IdMapping) -> None:
    """Make the workspace where it is missing. Raises TrackbedError for one that the notebook could not write.

    Rootless: it is the user's, as whom the notebook runs. Remapped: it is the person's, and a list lets the notebook's
    account in; root without sudo, or a file system without such lists, gives it to that account.
    """
    if ids.rootless:
        notebook.make_workspace(place, ids.own, group(ids.own), callers=False)
        return
    uid, gid = ids.outside(notebook.UID), ids.outside(notebook.GID)
    if uid is None or gid is None:
        notebook.make_workspace(place)
        return
    made, whose = not place.is_dir(), person(ids)
    notebook.make_workspace(place, uid, gid, callers=bool(whose))
    if is_closed(place, ids):
        handle, _ = safe_files.make_way(place, {whose})
        try:
            if not share(handle, {uid, whose}) and made and os.geteuid() == 0:
                safe_files.chown(handle, uid, gid)
        finally:
            os.close(handle)


def is_closed(place: Path, ids: IdMapping) -> bool:
    """Whether the workspace is the person's and the notebook's account has no way in, which `make` gives it."""
    uid, gid = ids.outside(notebook.UID), ids.outside(notebook.GID)
    if ids.rootless or uid is None or gid is None or not 0 < safe_files.owner(place) == person(ids):
        return False
    return bool(notebook.workspace_problem(place, uid, gid)[0])


def problem(place: Path, ids: IdMapping, uid: int, image: str) -> tuple[str, str]:
    """Why the notebook, of uid ``uid`` inside, could not write to a workspace that is there, and what to type."""
    outside, other = ids.outside(uid), ids.outside(notebook.group(uid))
    if outside is None or other is None:
        return "", ""
    found, line = notebook.workspace_problem(place, outside, other)
    if line != notebook.give_line(place, outside, other):
        return found, line
    if is_closed(place, ids):
        return "", ""  # a start lets it in
    return found, fix(place, ids, uid, image)


def fix(place: Path, ids: IdMapping, uid: int, image: str) -> str:
    """What to type where the notebook, of uid ``uid`` inside, cannot write to a workspace."""
    owner, outside, other = safe_files.owner(place), ids.outside(uid), ids.outside(notebook.group(uid))
    if outside is None or other is None or owner == outside:
        return notebook.other_folder(place)
    if ids.rootless and ids.inside(owner) is not None:  # such numbers only the engine's root can change
        inside = f"{uid}:{notebook.group(uid)}"
        return (f"docker run --rm --user 0 --entrypoint chown -v {shlex.quote(f'{place}:/w')} {image} -hR {inside} /w"
                "   (or name another folder in WORKSPACE)")
    if not ids.rootless and owner and owner == os.geteuid() and shutil.which("setfacl"):
        rights = f"u:{outside}:rwX,d:u:{outside}:rwX,d:u:{owner}:rwX"
        return f"setfacl -R -m {rights} {shlex.quote(str(place))}   (or name another folder in WORKSPACE)"
    return notebook.give_line(place, outside, other)


def group(uid: int) -> int:
    """The group that an account logs in with."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return os.getegid()


def share(folder: int, accounts: Collection[int]) -> bool:
    """Let accounts write to a folder (a descriptor) and to all that is made in it later, by whomever.

    What `setfacl` does, which is not everywhere. False where the file system has no such lists.
    """
    mode, path = os.fstat(folder).st_mode, f"/proc/self/fd/{folder}"  # a descriptor that only finds (O_PATH)
    try:
        os.setxattr(path, ACCESS, access_list(mode, accounts))
        os.setxattr(path, DEFAULT, access_list(mode, accounts))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.EROFS):
            return False
        raise
    return True


def access_list(mode: int, accounts: Collection[int]) -> bytes:
    """A list in which the owner, the group and others have the rights of ``mode``, and some accounts all of them."""
    entries = [(OWNER, mode >> 6 & 7, NOBODY), *((USER, 7, uid) for uid in sorted(accounts)),
               (GROUP, mode >> 3 & 7, NOBODY), (MASK, 7, NOBODY), (OTHERS, mode & 7, NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
