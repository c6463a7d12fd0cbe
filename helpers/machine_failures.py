"""Failures that the machine around us causes (disks, permissions, memory, damaged byte code), and what to do then."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from helpers.errors import TrackbedError

CLONE = Path(__file__).resolve().parent.parent
CGROUP = Path("/sys/fs/cgroup")
BYTE_CODE = re.compile(r"marshal data too short|bad marshal data|EOF read where (object|not) expected", re.IGNORECASE)
MEMORY = (
    "the machine, or this session's limit, is out of memory",
    "`invoke doctor` shows how much there is; MLFLOW_WORKERS=1 needs less; then type `invoke up`",
)
FULL = "the disk is full"


def known(error: BaseException) -> TrackbedError | None:
    """An exception of Python's as a message with its fix; None for what only a programmer can explain."""
    text = str(error)
    if isinstance(error, EOFError | ValueError | ImportError) and BYTE_CODE.search(text):
        line = f"find {shlex.quote(str(CLONE))} -name '*.pyc' -delete"
        return TrackbedError(
            f"byte code of the toolkit is damaged, as after a full disk: {text}",
            f"{line}   then the same command again",
        )
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("helpers"):
        lock = shlex.join(
            [sys.executable, "-m", "pip", "install", "--require-hashes", "-r", f"{CLONE}/requirements.txt"]
        )
        return TrackbedError(f"this version needs {error.name}, which the toolkit's environment does not have", lock)
    if isinstance(error, MemoryError):
        return TrackbedError(*MEMORY)
    if not isinstance(error, OSError) or error.errno is None:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name]
    place = names[0] if names else ""
    at = f": {place}" if place else ""
    folder = shlex.quote(str(Path(place).parent)) if place.startswith("/") else "."
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return TrackbedError(
                f"{FULL}{at}", f"free some (df -h {folder}; df -i {folder}), then the same command again"
            )
        case errno.EROFS:
            return TrackbedError(
                f"the file system is read-only{at}",
                f"mount it writable (findmnt -T {folder} shows what it is), or name another folder with --state-dir",
            )
        case errno.EACCES | errno.EPERM:
            return TrackbedError(
                f"permission denied{at}",
                f"namei -l {shlex.quote(place) if place else '.'} shows which folder is closed, or "
                "whether programs may run there; another folder: --state-dir=FOLDER",
            )
        case errno.ENAMETOOLONG:
            return TrackbedError(
                f"a path is too long{at}", "name a shorter folder with --state-dir, or a shorter --project"
            )
        case errno.EMFILE | errno.ENFILE:
            return TrackbedError("too many open files", "ulimit -n 4096   then the same command again")
        case errno.ENOMEM:
            return TrackbedError(*MEMORY)
        case errno.EIO | errno.ESTALE:
            return TrackbedError(
                f"the disk or the file server reports an error ({error.strerror}){at}",
                "`dmesg | tail` usually says why; fix that, then run the same command again",
            )
    return None


def at(path: Path, error: OSError) -> TrackbedError:
    """A failure at ``path`` as a message with its fix."""
    named = OSError(error.errno, error.strerror, str(path)) if error.errno else error
    again = "fix that, then run the same command again"
    return known(named) or TrackbedError(f"{path}: {error.strerror or error}", again)


def explain(lines: Iterable[str]) -> tuple[str, str] | None:
    """What a service's last lines tell of the machine, and the fix; None where they tell of something else."""
    for line in reversed(list(lines)):
        if BYTE_CODE.search(line):
            return (
                "its byte code is damaged, as after a full disk",
                "`invoke up` removes it and goes on; `df -h` shows whether the disk is still full",
            )
        if re.search(r"No space left on device|Disk quota exceeded", line):
            return FULL, "free some (`df -h` shows where it is full), then type `invoke up`"
        if re.search(r"MemoryError|Cannot allocate memory|[Oo]ut of memory|oom-kill", line):
            return MEMORY
        if re.search(r"Address already in use|could not be started because port \d+ is not available", line):
            return (
                "another program took its port before it",
                "`invoke doctor` names that program, and a free port with its flag",
            )
        if re.search(r"failed to map segment|cannot open shared object.*Operation not permitted", line):
            return (
                "programs may not run from its disk (noexec)",
                "name a folder on another disk with --state-dir (findmnt shows the options)",
            )
    return None


def memory_limit(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> tuple[int, int]:
    """The least memory limit that this process stands below, and what is free of it, in bytes; (0, 0) for none.

    Of control groups, version 2 and 1: a session of a batch system or a container has less than the machine.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return 0, 0
    least = (0, 0)
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers not in ("", "memory"):
            continue
        top = root / "memory" if controllers else root
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        parts = Path(path.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:depth])
            limit, used = (_number(folder / name) for name in files)
            if 0 < limit < 1 << 60 and (not least[0] or limit < least[0]):
                least = (limit, max(0, limit - max(0, used - _cache(folder))))
    return least


def killed_for_memory(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes the kernel has ended for lack of memory in this control group; 0 where it does not tell."""
    try:
        path = next(line.split(":", 2)[2] for line in own.read_text().splitlines() if line.startswith("0::"))
        text = (root / path.lstrip("/") / "memory.events").read_text()
    except (OSError, StopIteration, IndexError):
        return 0
    match = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0  # "max"


def _cache(folder: Path) -> int:
    """Bytes of the page cache that the kernel gives back when they are needed."""
    try:
        text = (folder / "memory.stat").read_text()
    except OSError:
        return 0
    match = re.search(r"^(?:total_)?inactive_file (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else 0
