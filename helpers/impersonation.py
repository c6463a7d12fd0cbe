"""Looking at files as another account does, /proc of its processes above all.

Linux shows a process's environment, folder and open files to its own account, and to others only with CAP_SYS_PTRACE,
which root in a container does not have (Docker's default). The account that asks is the asking thread's filesystem uid:
PTRACE_MODE_READ_FSCREDS in ptrace(2). To change that needs CAP_SETUID alone. And no process of the account comes into
being, which the account's others could trace, or stop and answer in its place.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
SECONDS = 5.0  # in which /proc answers
TOTAL_SECONDS = 10.0  # for all that is asked of one account


def as_account(uid: int, gid: int, look: Callable[[], T], seconds: float = SECONDS) -> T:
    """What ``look`` gives to an account. Only Linux's root can ask so: else, or without CAP_SETUID, it looks itself.

    A process hides its environment by having it in a file that never answers (FUSE): Linux reads nothing there, at
    once. Should a system wait for that file instead, TimeoutError is raised after so many seconds.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or uid == 0:
        return look()
    future: Future[T] = Future()

    def switched() -> None:
        libc = ctypes.CDLL(None)
        libc.setfsgid(gid)  # not the libc's setegid and seteuid, which switch every thread
        libc.setfsuid(uid)
        try:
            future.set_result(look())
        except Exception as error:
            future.set_exception(error)

    # a thread that ends with it: the ids are its own, and an interrupt cannot leave them to the rest of the program
    Thread(target=switched, daemon=True).start()
    return future.result(seconds)


class Look:
    """One look at many processes, each as its owner. Bounded: an account whose processes take longer than TOTAL_SECONDS
    is not asked any more. It has hidden no other account's by that.
    """

    def __init__(self) -> None:
        self.left: dict[int, float] = {}

    def as_owner(self, pid: int, look: Callable[[], T]) -> T:
        """What ``look`` gives to the account of a process. Raises OSError: it has gone, or does not answer."""
        if sys.platform != "linux" or os.geteuid() != 0:
            return look()
        owner = os.stat(f"/proc/{pid}")
        left = self.left.setdefault(owner.st_uid, TOTAL_SECONDS)
        if left <= 0:
            raise TimeoutError(f"the processes of uid {owner.st_uid} do not answer")
        began = time.monotonic()
        try:
            return as_account(owner.st_uid, owner.st_gid, look, min(SECONDS, left))
        finally:
            self.left[owner.st_uid] -= time.monotonic() - began
