"""The lock file of a PostgreSQL that is gone. PostgreSQL asks only whether its process number is in use: after a power
cut that may be any other program, and then it refuses to start for good. Here the processes themselves are looked at.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from helpers import impersonation

FILE = "postmaster.pid"


def workers(data: Path, proc: Path = Path("/proc")) -> list[int] | None:
    """The processes that work in a data folder, as every process of PostgreSQL does; None where one cannot tell.

    They are looked at as the folder's own account: PostgreSQL serves no folder of somebody else.
    """
    if not proc.is_dir():
        return None
    try:
        expected = os.stat(data)
        return impersonation.as_account(expected.st_uid, expected.st_gid, lambda: _inside(expected, proc))
    except OSError:  # a time-out too
        return None


def _inside(expected: os.stat_result, proc: Path) -> list[int] | None:
    """Those with this folder for their own; None where one of its account does not tell, and no other one is there."""
    pids, hidden = [], False
    for folder in proc.glob("[0-9]*"):
        try:
            if os.path.samestat(os.stat(folder / "cwd"), expected):
                pids.append(int(folder.name))
        except PermissionError:
            with suppress(OSError):
                hidden |= os.stat(folder).st_uid == expected.st_uid
        except OSError:
            continue
    return None if hidden and not pids else sorted(pids)


def holder(text: str) -> int:
    """The process number in a lock file; 0 for one that a power cut left empty or damaged."""
    first = text.split("\n", 1)[0].strip()
    return int(first) if first.isdecimal() else 0
