"""Becomes a service's account, then the service's program. Run by root's supervisor with ``python -I -S``, as a copy
in a folder of root's:

    launch.py ACCOUNT GROUPS FOLDER PROGRAM [ARGUMENT ...]      GROUPS: further group ids, with commas between them

What the program finds in its environment is handed over with PREFIX before each name: as themselves LD_PRELOAD and the
like would count for this Python, which is still root.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys

PREFIX = "TRACKBED_TO_SERVICE_"


def main(name: str, groups: str, folder: str, *command: str) -> None:
    account = pwd.getpwnam(name)
    if account.pw_uid == 0:
        sys.exit(f"{name} is root")
    for stream in (1, 2):
        if stat.S_ISFIFO(os.fstat(stream).st_mode):
            os.fchown(stream, account.pw_uid, account.pw_gid)  # a program may reopen /dev/stdout
    os.setgroups([int(word) for word in groups.split(",") if word])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.umask(0o077)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    environment |= {key.removeprefix(PREFIX): value for key, value in os.environ.items() if key.startswith(PREFIX)}
    try:
        os.chdir(folder)
        os.execve(command[0], command, environment)
    except OSError as error:
        sys.exit(f"{error.filename or command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(*sys.argv[1:])
