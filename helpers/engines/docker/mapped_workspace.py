"""The notebook's folder on an engine with user namespaces: for the person on the machine and for the notebook alike."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import shutil
import stat
import struct
from collections.abc import Collection
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

from helpers import safe_files
from helpers.engines.docker.id_mapping import IdMapping
from helpers.errors import TrackbedError
from helpers.project import workspace_folder

# a POSIX access list as Linux keeps it (include/uapi/linux/posix_acl_xattr.h): version 2, then tag, rights, id
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF
NO_LISTS = (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.EROFS)
MOST = 200_000  # entries of a workspace that are let in at a start: up to 15 s, once


def person(ids: IdMapping) -> int:
    """Whose folder it should be: the caller's, behind sudo whoever called that; with rootless the engine's own user."""
    return ids.root_uid if ids.rootless else os.geteuid() or int(os.environ.get("SUDO_UID", 0))


def make(place: Path, ids: IdMapping) -> None:
    """Make the workspace where it is missing. Raises TrackbedError for one that the notebook could not write.

    Rootless: it is the user's, as whom the notebook runs. Remapped: it is the person's, and a list lets the notebook's
    account in; root without sudo, or a file system without such lists, gives it to that account.
    """
    if ids.rootless:
        workspace_folder.make(place, ids.root_uid, group(ids.root_uid), callers=False, private=True)
        return
    uid, gid = ids.to_host(workspace_folder.UID), ids.to_host(workspace_folder.GID)
    if uid is None or gid is None:
        workspace_folder.make(place, private=True)
        return
    created, whose = not place.is_dir(), person(ids)
    workspace_folder.make(place, uid, gid, callers=bool(whose), private=True)
    if not whose or not (created or is_closed(place, ids)):
        return
    try:
        handle, _ = safe_files.make_way(place, {whose})
        try:
            if os.fstat(handle).st_uid != whose:
                return  # another folder than the one that was looked at: the first save tells
            if not share(handle, {uid, whose}) and created and os.geteuid() == 0:
                safe_files.chown(handle, uid, gid)
        finally:
            os.close(handle)
    except OSError as error:
        raise TrackbedError(
            f"WORKSPACE {place} cannot be opened to the notebook's account: {error.strerror}",
            "name another folder in WORKSPACE",
        ) from None


def is_closed(place: Path, ids: IdMapping) -> bool:
    """Whether the workspace is the person's and the notebook's account has no way in, which `make` gives it."""
    uid, gid = ids.to_host(workspace_folder.UID), ids.to_host(workspace_folder.GID)
    try:
        owner = place.stat().st_uid
    except OSError:
        return False
    if ids.rootless or uid is None or gid is None or not 0 < owner == person(ids) or holds_home(place, ids):
        return False
    return bool(workspace_folder.problem(place, uid, gid)[0]) and takes_lists(place)


def holds_home(place: Path, ids: IdMapping) -> bool:
    """Whether the person's home is in the folder, with keys that programs refuse once a list lets others in."""
    try:
        home = pwd.getpwuid(person(ids)).pw_dir
    except KeyError:
        return False
    return Path(os.path.realpath(home)).is_relative_to(os.path.realpath(place))


def takes_lists(place: Path) -> bool:
    """Whether the file system of a folder keeps access lists."""
    try:
        os.getxattr(place, ACCESS)
    except OSError as error:
        return error.errno not in (errno.EOPNOTSUPP, errno.ENOTSUP)
    return True


def problem(place: Path, ids: IdMapping, uid: int, image: str) -> tuple[str, str]:
    """Why the notebook, of uid ``uid`` inside, could not write to a workspace that is there, and what to type."""
    outside, other = ids.to_host(uid), ids.to_host(workspace_folder.group(uid))
    if outside is None or other is None:
        return "", ""
    result, line = workspace_folder.problem(place, outside, other)
    if line != workspace_folder.give_line(place, outside, other):
        return result, line
    if is_closed(place, ids):
        return "", ""  # a start lets it in
    if not ids.rootless and holds_home(place, ids):
        return (
            f"WORKSPACE {place} holds your home, whose keys would be opened to the notebook's account",
            "name a folder in it in WORKSPACE",
        )
    return result, fix(place, ids, uid, image)


def fix(place: Path, ids: IdMapping, uid: int, image: str) -> str:
    """What to type where the notebook, of uid ``uid`` inside, cannot write to a workspace."""
    owner, outside, other = safe_files.owner(place), ids.to_host(uid), ids.to_host(workspace_folder.group(uid))
    if outside is None or other is None or owner == outside:
        return workspace_folder.other_folder(place)
    if ids.rootless and ids.to_container(owner) is not None:  # such numbers only the engine's root can change
        inside = f"{uid}:{workspace_folder.group(uid)}"
        return (
            f"docker run --rm --user 0 --entrypoint chown -v {shlex.quote(f'{place}:/w')} {image} -hR {inside} /w"
            "   (or name another folder in WORKSPACE)"
        )
    if not ids.rootless and owner and owner == os.geteuid() and shutil.which("setfacl") and takes_lists(place):
        rights = f"u:{outside}:rwX,d:u:{outside}:rwX,d:u:{owner}:rwX"
        return f"setfacl -R -m {rights} {shlex.quote(str(place))}   (or name another folder in WORKSPACE)"
    return workspace_folder.give_line(place, outside, other)


def group(uid: int) -> int:
    """The group that an account logs in with."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return os.getegid()


def share(folder: int, accounts: Collection[int]) -> bool:
    """Let accounts write to a folder (a descriptor), to what its owner has in it and to all that is made in it later.

    Links, files with several names and others' files stay. What `setfacl -R` does, which is not everywhere. False where
    the file system has no such lists.
    """
    whose = os.fstat(folder).st_uid
    try:
        _set(folder, DEFAULT, accounts)  # first: what is made meanwhile has it
        with closing(safe_files.below(folder, whose)) as entries:
            for entry, result in islice(entries, MOST):
                if result.st_uid == whose:
                    with suppress(OSError):  # gone, immutable, or on another file system
                        _let_in(entry, result, accounts)
        _set(folder, ACCESS, accounts)  # last: `is_closed` sees it, and an interrupted walk is taken up again
    except OSError as error:
        if error.errno in NO_LISTS:
            return False
        raise
    return True


def _let_in(entry: int, info: os.stat_result, accounts: Collection[int]) -> None:
    if stat.S_ISDIR(info.st_mode):
        _set(entry, DEFAULT, accounts)
        _set(entry, ACCESS, accounts)
    elif stat.S_ISREG(info.st_mode) and info.st_nlink == 1:
        _set(entry, ACCESS, accounts, 6 | info.st_mode >> 6 & 1)


def _set(entry: int, name: str, accounts: Collection[int], rights: int = 7) -> None:
    path = f"/proc/self/fd/{entry}"  # a descriptor that only finds (O_PATH)
    mode = os.fstat(entry).st_mode
    before = _get(path, name) or _get(path, ACCESS)  # beside a list the mode's group is the mask
    os.setxattr(path, name, access_list(mode, accounts, rights, before))


def _get(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return b""


def access_list(mode: int, accounts: Collection[int], rights: int = 7, before: bytes = b"") -> bytes:
    """A list in which some accounts have ``rights``, and everybody else what the list ``before`` gives, or ``mode``."""
    entries = [(int(tag), int(right), int(who)) for tag, right, who in struct.iter_unpack("<HHI", before[4:])] or [
        (OWNER, mode >> 6 & 7, NOBODY),
        (GROUP, mode >> 3 & 7, NOBODY),
        (OTHERS, mode & 7, NOBODY),
    ]
    masked, mask = (USER, GROUP, NAMED_GROUP), next((right for tag, right, _ in entries if tag == MASK), 7)
    kept = [
        (tag, right & mask if tag in masked else right, who)
        for tag, right, who in entries
        if tag != MASK and not (tag == USER and who in accounts)
    ]
    kept += [(USER, rights, uid) for uid in accounts]
    widest = 0
    for tag, right, _ in kept:
        widest |= right if tag in masked else 0
    whole = sorted([*kept, (MASK, widest, NOBODY)], key=lambda entry: (entry[0], entry[2]))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in whole)
