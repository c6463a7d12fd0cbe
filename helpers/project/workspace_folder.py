"""The notebook's workspace as a folder of this machine: whose it is, making it, who may write to it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection
from pathlib import Path

from helpers import safe_files
from helpers.errors import TrackbedError
from helpers.shell_words import as_root

UID = 1000  # jovyan
GID = 100  # users


def owner(workspace: Path) -> int:
    """The uid the notebook runs as: the workspace's owner, who will make it, or jovyan where that would be root."""
    try:
        result = workspace.stat().st_uid
    except OSError:
        result = os.geteuid() or int(os.environ.get("SUDO_UID", 0))
    return result or UID


def group(uid: int) -> int:
    """The group the notebook runs in: jovyan's, or with root's number (rootless engines) the user's own."""
    return GID if uid else 0


def problem(workspace: Path, uid: int, gid: int = GID, groups: Collection[int] = ()) -> tuple[str, str]:
    """Why an account could not write to a workspace that is there, and what to type; ("", "") where nothing shows it.

    ``groups``: further ones that the account is in. From its mode alone: what a server of files, SELinux or a
    container's engine refuses is seen by trying.
    """
    try:
        info = workspace.stat()
        if os.statvfs(workspace).f_flag & os.ST_RDONLY:
            return f"WORKSPACE {workspace} is on a file system that is mounted read-only", read_only_fix(workspace)
        if sys.platform == "linux" and any(
            name.endswith("_acl_access") or name.endswith("nfs4_acl") for name in os.listxattr(workspace)
        ):
            return "", ""  # the mode does not tell
    except OSError:
        return "", ""
    shift = 6 if info.st_uid == uid else 3 if info.st_gid in (gid, *groups) else 0
    if (info.st_mode >> shift) & 0o3 == 0o3:
        return "", ""
    quoted = shlex.quote(str(workspace))
    if info.st_uid == uid:
        return f"WORKSPACE {workspace} cannot be written by its owner", f"chmod u+rwx {quoted}"
    who = "root" if info.st_uid == 0 else f"uid {info.st_uid}"
    return (
        f"WORKSPACE {workspace} belongs to {who}, so the notebook's user cannot write to it",
        give_line(workspace, uid, gid),
    )


def give_line(workspace: Path, uid: int, gid: int) -> str:
    """The line that gives a workspace and all that is in it to an account."""
    return f"{as_root(f'chown -hR {uid}:{gid} {shlex.quote(str(workspace))}')}   (or name another folder in WORKSPACE)"


def other_folder(workspace: Path) -> str:
    """What to do where neither owner nor mode is the reason: a file server, SELinux, a quota."""
    try:
        enforcing = Path("/sys/fs/selinux/enforce").read_text().strip() == "1"
    except OSError:
        enforcing = False
    if enforcing:
        label = as_root(f"chcon -Rt container_file_t {shlex.quote(str(workspace))}")
        return f"{label}   (or name another folder in WORKSPACE)"
    return (
        "name a folder on a disk of this machine in WORKSPACE; this one may be a file server's, which does not let "
        "the notebook's account in"
    )


def read_only_fix(workspace: Path) -> str:
    """What to do about a workspace on a file system that cannot be written."""
    return (
        f"mount it writable (findmnt -T {shlex.quote(str(workspace))} shows what it is), or name another folder in "
        "WORKSPACE"
    )


def make(workspace: Path, uid: int = UID, gid: int = GID, callers: bool = True, private: bool = False) -> None:
    """Make the workspace folder, owned by who will write to it. A folder that was there keeps its owner and its mode.

    ``callers``: made through sudo it belongs to who called that. ``private``: other accounts do not get in, but for the
    group of who called sudo. Raises TrackbedError for one that the notebook could
    not write, and as root for one behind a link that a notebook may have put there.
    """
    try:
        if os.geteuid() != 0:
            workspace.mkdir(parents=True, mode=0o700 if private else 0o755, exist_ok=True)
            return
        caller = int(os.environ.get("SUDO_UID", 0))
        handle, created = safe_files.make_way(workspace, {caller})
        try:
            details = os.fstat(handle)
            if created and private:
                gid = int(os.environ.get("SUDO_GID", gid))
                safe_files.chmod(handle, 0o700 if gid == GID else 0o750)  # every person of a machine may be in `users`
            if created and callers and caller:
                safe_files.chown(handle, caller, int(os.environ.get("SUDO_GID", gid)))
            elif created:
                safe_files.chown(handle, uid, gid)
        finally:
            os.close(handle)
        if not created and details.st_uid == 0 and not details.st_mode & 0o002:
            raise TrackbedError(
                f"WORKSPACE {workspace} belongs to root, so the notebook's user cannot write to it",
                give_line(workspace, uid, gid),
            )
    except (FileExistsError, NotADirectoryError):
        raise TrackbedError(f"WORKSPACE {workspace} is not a folder", "name another folder in WORKSPACE") from None
    except OSError as error:
        raise TrackbedError(
            f"WORKSPACE {workspace} cannot be created: {error.strerror}", "name a folder you may write to in WORKSPACE"
        ) from None


def give_to(workspace: Path, old: int, uid: int, gid: int) -> safe_files.Handover:
    """Give the workspace of the account ``old`` and what that owns below it to another one; nothing where it has none.

    For root. No link is followed; files with several names keep their owner.
    """
    if safe_files.owner(workspace) != old:
        return safe_files.Handover()
    handle, _ = safe_files.make_way(workspace, set())
    try:
        return safe_files.give_tree(handle, old, uid, gid)
    finally:
        os.close(handle)
