"""Processes that do not want to be found or ended: by their name, without their first thread, or by stopping others."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

HEADLESS = """
import ctypes, threading, time
def rest():
    while open("/proc/self/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
        time.sleep(0.01)
    print(flush=True)
    time.sleep(60)
threading.Thread(target=rest).start()
ctypes.CDLL(None).pthread_exit(None)
"""

# stops every other process of its account, also one that has come to end it
STOPPER = """
import os
print(flush=True)
while True:
    try:
        os.kill(-1, 19)
    except OSError:
        pass
"""


def named(uid: int) -> str:
    """A program whose name is a line of its /proc/PID/status that tells of another uid (PR_SET_NAME)."""
    name = f"Uid:\\t{uid}\\t{uid}\\t{uid}"  # 15 bytes at most
    return f"import ctypes, time; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0); print(flush=True); time.sleep(60)"


@contextmanager
def started(
    code: str, environment: Mapping[str, str] | None = None, uid: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """It is disguised; of another account as root."""
    with subprocess.Popen(
        ["/usr/bin/python3", "-I", "-S", "-c", code],
        env=dict(environment or {}),
        stdout=subprocess.PIPE,
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    ) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"\n"
            yield process
        finally:
            process.kill()


def as_in_a_container() -> None:
    """For Popen's ``preexec_fn``: what root runs then may not look at other accounts' processes.

    See PR_CAPBSET_DROP in prctl(2). Two more capabilities would show it the half of them.
    """
    libc, drop = ctypes.CDLL(None), 24
    for capability in (19, 21, 38):  # CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON
        libc.prctl(drop, capability, 0, 0, 0)
