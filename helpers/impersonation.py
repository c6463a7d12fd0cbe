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
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
SECONDS = 5.0  # in which /proc answers


def as_account(uid: int, gid: int, look: Callable[[], T]) -> T:
    """What ``look`` gives to an account. Only Linux's root can ask so: else, or without CAP_SETUID, it looks itself.

    Raises TimeoutError after SECONDS: a process can have its environment in a file that never answers (FUSE).
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
    return future.result(SECONDS)


def as_owner(pid: int, look: Callable[[], T]) -> T:
    """What ``look`` gives to the account of a process. Raises OSError where the process has gone."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return look()
    owner = os.stat(f"/proc/{pid}")
    return as_account(owner.st_uid, owner.st_gid, look)
