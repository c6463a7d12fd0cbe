"""The processes of this machine, whoever started them. Through psutil: Linux and macOS are asked alike."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from helpers import waiting
from helpers.impersonation import Look

GONE = (psutil.Error, OSError)  # it has ended meanwhile, or is not this user's to look at
CONTAINER = re.compile(r"[0-9a-f]{64}|kubepods")  # how runtimes name a container's control group
KILL_SECONDS = 5.0  # after which one that was killed waits for a disk or a device


def _processes(pids: Iterable[int]) -> Iterator[psutil.Process]:
    """For all: `psutil.pids()`. What psutil.process_iter() keeps between calls hides one with a reused number."""
    for pid in pids:
        with suppress(*GONE):
            yield psutil.Process(pid)


def _has_ended(process: psutil.Process) -> bool:
    """Whether nothing of it runs. Linux calls one a zombie whose first thread has ended: others may run on."""
    if process.status() != psutil.STATUS_ZOMBIE:
        return False
    return not psutil.LINUX or len(os.listdir(f"/proc/{process.pid}/task")) == 1


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and not _has_ended(process)
    except GONE:
        return False


def alive(pid: int) -> bool:
    """Whether it runs; one that only waits to be taken note of has ended."""
    return any(map(_runs, _processes([pid])))


def owner(pid: int) -> int:
    """The uid that a process runs as, in the kernel's word. Raises one of GONE.

    Linux: psutil searches a text that begins with the process's name, which it chooses itself.
    """
    return os.stat(f"/proc/{pid}").st_uid if psutil.LINUX else int(psutil.Process(pid).uids().effective)


def _environment(process: psutil.Process, look: Look) -> dict[str, str]:
    """Raises one of GONE, also for a process that keeps it from its own account."""
    variables: dict[str, str] = look.as_owner(process.pid, process.environ)
    return variables


def variable(pid: int, name: str, uids: Collection[int] = ()) -> str:
    """A variable of another process's environment; "" when it has none or may not be read.

    ``uids``: only of these accounts; others write into their environment what they like.
    """
    try:
        if uids and owner(pid) not in uids:
            return ""
        value = _environment(psutil.Process(pid), Look()).get(name, "")
    except GONE:
        return ""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def with_variable(name: str, value: str, uids: Collection[int] = (), below: bool = False) -> list[int]:
    """The processes with this in their environment, those without such a parent: their children are left to them.

    ``uids``: as `variable` takes them. ``below``: these children too.
    """
    parents, look = {}, Look()
    for process in _processes(psutil.pids()):
        with suppress(*GONE):
            if (not uids or owner(process.pid) in uids) and _environment(process, look).get(name) == value:
                parents[process.pid] = process.ppid()
    running = {pid for pid in parents if alive(pid)}
    return sorted(pid for pid in running if below or parents[pid] not in running)


def _running() -> Iterator[tuple[int, int]]:
    """Each process that runs, with the uid that it runs as."""
    for process in _processes(psutil.pids()):
        with suppress(*GONE):
            if not _has_ended(process):
                yield process.pid, owner(process.pid)


def owners() -> set[int]:
    """The uids of everybody who runs something."""
    return {uid for _, uid in _running()}


def of_account(uid: int) -> list[int]:
    """The processes of an account that run, those in containers too, whose users are only numbers."""
    return [pid for pid, other in _running() if other == uid]


def kill_of_account(uid: int, spared: Callable[[int], bool]) -> None:
    """SIGKILL for the processes of an account, again while new ones come (64 times at most)."""
    for _ in range(64):
        if not (pids := [pid for pid in of_account(uid) if not spared(pid)]):
            return
        for process in _processes(pids):
            with suppress(*GONE):
                if owner(process.pid) == uid:
                    process.kill()


def in_container(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process is in a container that root started: in process numbers of its own, but with the uids of all,
    and in a control group that is named after a container. Nobody but root gets there.
    """
    try:
        text = {name: (proc / str(pid) / name).read_text() for name in ("status", "uid_map", "cgroup")}
        own = {name: (proc / "self" / name).read_text() for name in text}
    except OSError:  # it has ended, or this is not Linux
        return False
    numbers, ours = (re.search(r"^NSpid:(.*)$", one["status"], re.MULTILINE) for one in (text, own))
    if not numbers or not ours or len(numbers[1].split()) <= len(ours[1].split()):
        return False
    containers, around = (set(CONTAINER.findall(one["cgroup"])) for one in (text, own))
    return text["uid_map"] == own["uid_map"] and not containers <= around


def memory(pid: int) -> int:
    """Bytes of a process and all below it, shared ones in proportion where the system tells; 0 where it does not."""
    total, look = 0, Look()
    with suppress(*GONE):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(*GONE):
                details = look.as_owner(one.pid, one.memory_full_info)
                total += int(getattr(details, "pss", 0) or getattr(details, "uss", 0))
    return total


def end(pids: Iterable[int], seconds: float, signals: Mapping[str, signal.Signals], uids: Collection[int] = ()) -> None:
    """End processes: by the signal for a program's name, else by SIGTERM; after ``seconds`` by SIGKILL. Bounded.

    ``uids``: only of these accounts. A number may be another process's by now.
    """
    left = []
    for process in _processes(pids):  # from here on psutil tells it from another one by its start time
        with suppress(*GONE):
            if not uids or owner(process.pid) in uids:
                left.append(process)
    for process in left:
        with suppress(*GONE):
            process.send_signal(signals.get(process.name(), signal.SIGTERM))
            process.send_signal(signal.SIGCONT)  # a frozen one could not end itself
    if waiting.until(lambda: not any(map(_runs, left)), seconds, 0.1):
        return
    for process in filter(_runs, left):
        with suppress(*GONE):
            process.kill()
    waiting.until(lambda: not any(map(_runs, left)), KILL_SECONDS)


def _of_each_process() -> list[tuple[Any, int | None]]:
    """The TCP sockets of each process that can be looked at."""
    sockets: list[tuple[Any, int | None]] = []
    look = Look()
    for process in _processes(psutil.pids()):
        with suppress(*GONE):
            ask = partial(process.net_connections, "tcp")
            sockets += [(one, process.pid) for one in look.as_owner(process.pid, ask)]
    return sockets


def listener(port: int) -> tuple[bool, int]:
    """Whether a process of this machine listens on a TCP port, and its number; 0 when this user may not see it."""

    def listening(sockets: Iterable[tuple[Any, int | None]]) -> list[int]:
        return [pid or 0 for one, pid in sockets if one.status == psutil.CONN_LISTEN and one.laddr.port == port]

    try:
        pids = listening((one, one.pid) for one in psutil.net_connections("tcp"))
        hidden = bool(pids) and not any(pids)
    except GONE:  # macOS shows all of them to root alone
        pids, hidden = [], True
    if hidden:
        pids += listening(_of_each_process())
    return bool(pids), max(pids, default=0)


def sockets(pid: int) -> frozenset[int] | None:
    """The inodes of the sockets that a process has open (Linux); None where this user may not see them."""
    folder = f"/proc/{pid}/fd"

    def look() -> frozenset[int]:
        inodes = set()
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):  # closed meanwhile
                if inode := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"{folder}/{name}")):
                    inodes.add(int(inode[1]))
        return frozenset(inodes)

    try:
        return Look().as_owner(pid, look)
    except OSError:
        return None if alive(pid) else frozenset()  # one that waits to be taken note of shows nothing either


def title(pid: int) -> str:
    """The program and, for an interpreter, its script. Never further arguments: they may hold secrets."""
    try:
        process = psutil.Process(pid)
        command = process.cmdline()[:2]
        return " ".join(Path(word).name for word in command if word and not word.startswith("-")) or str(process.name())
    except GONE:
        return ""
