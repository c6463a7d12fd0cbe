"""The accounts that services run as where root starts them: their names, and which of this machine's they are."""

from __future__ import annotations

import os
import pwd

PREFIX = "trackbed-"
DATABASE, SERVER, NOTEBOOK = ROLES = ("database", "server", "notebook")
ENDINGS = {DATABASE: "db", SERVER: "mlflow", NOTEBOOK: "nb"}
EARLIER = "trackbed"  # who everything ran as before there was one account a role


def services() -> set[int]:
    """The uids of every project's services on this machine; nothing for a normal user, who has none."""
    if os.geteuid() != 0:
        return set()
    names = tuple(f"-{ending}" for ending in ENDINGS.values())
    return {
        entry.pw_uid
        for entry in pwd.getpwall()
        if entry.pw_name == EARLIER or (entry.pw_name.startswith(PREFIX) and entry.pw_name.endswith(names))
    } - {0}


def earlier() -> int:
    """The uid that everything ran as in earlier versions; -1 when there is none."""
    try:
        return pwd.getpwnam(EARLIER).pw_uid
    except KeyError:
        return -1
