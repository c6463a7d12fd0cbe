"""The accounts that the embedded engine's processes run as: one a role and project for root, else the user's own."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import commands, process_table, waiting
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.service_accounts import DATABASE, ENDINGS, NOTEBOOK, PREFIX, ROLES, SERVER
from helpers.services import JUPYTER, MLFLOW, POSTGRES

ROLE_OF = {POSTGRES: DATABASE, MLFLOW: SERVER, JUPYTER: NOTEBOOK}
LONGEST = 31  # characters of a name that useradd takes
# What a command of another account's gets of root's own: other processes of the account may trace it, and so read its
# environment and take its open files, a terminal too.
NOTHING: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "env": {"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
    "cwd": "/",
}
# Ends all that an account runs. It reaches what the account's own processes would, and they do not reach it: who may
# signal it is told by its real uid, which is nobody's. Else the first of them to see it could stop it.
KILLER = """
import os, signal, sys
uid, spare = map(int, sys.argv[1:])
try:
    os.setresuid(spare, uid, spare)
except OSError:  # a user namespace without such a uid
    os.setresuid(uid, uid, uid)
os.kill(-1, signal.SIGKILL)
"""
NEEDED = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
}  # as capabilities(7) has them
NOBODY = 65534
SPARE = range(65533, 65519, -1)  # uids that Linux distributions leave unused
# Uids for the accounts: below 1000, but not where useradd and most images begin. A container's processes are this
# machine's too: to the kernel, its user 999 (PostgreSQL's, Redis') is the machine's user 999.
FREE = tuple(uid for uid in range(899, 499, -1) if uid not in (568, 777, 888))
END_SECONDS = 5.0  # within which killed processes are gone
SECONDS = 60  # for useradd and userdel, which wait for each other's lock
TAKEN = "is not unique"  # useradd's words for a uid that another one has got since it was free


@dataclass(frozen=True)
class Accounts:
    """The accounts of the project whose files are below ``folder``. ``folder`` tells two projects of one name apart."""

    project: str
    folder: Path

    @property
    def separate(self) -> bool:
        """Whether each role has an account of its own."""
        return os.geteuid() == 0

    def home(self, role: str) -> Path:
        return self.folder / "home" / role if self.separate else Path.home()

    def _ours(self, name: str, role: str) -> bool:
        """Whether there is an account of that name that was made for this folder: only root could write its home."""
        try:
            return pwd.getpwnam(name).pw_dir == str(self.home(role))
        except KeyError:
            return False

    def name(self, role: str) -> str:
        """The name of a role's account, which need not be there yet."""
        if not self.separate:
            return pwd.getpwuid(os.geteuid()).pw_name
        ending, digest = ENDINGS[role], hashlib.sha256(os.fsencode(str(self.folder))).hexdigest()[:6]
        plain = f"{PREFIX}{self.project}-{ending}"
        room = LONGEST - len(f"{PREFIX}-{digest}-{ending}")
        longer = f"{PREFIX}{self.project[:room].rstrip('-_')}-{digest}-{ending}"
        if self._ours(longer, role) or len(plain) > LONGEST:
            return longer
        return plain if self._ours(plain, role) or not _exists(plain) else longer

    def find(self, role: str) -> pwd.struct_passwd | None:
        """The account of a role; None when it has not been made."""
        if not self.separate:
            return pwd.getpwuid(os.geteuid())
        name = self.name(role)
        return pwd.getpwnam(name) if self._ours(name, role) else None

    def get(self, role: str) -> pwd.struct_passwd:
        """The account of a role. Raises TrackbedError when it has not been made."""
        account = self.find(role)
        if account is None:
            raise TrackbedError(f"the account {self.name(role)} of the {role} does not exist", "`invoke up` creates it")
        return account

    def make(self, role: str) -> pwd.struct_passwd:
        """The account of a role, made when it is missing. Raises EngineUnavailable."""
        if account := self.find(role):
            return account
        maker = _tool("useradd")
        if maker is None:
            raise EngineUnavailable(
                "PostgreSQL does not run as root, and there is no useradd to create a user for it",
                "run as a normal user, or install the package passwd (shadow)",
            )
        name, why = self.name(role), ""

        def is_ours_or_hopeless() -> bool:
            nonlocal why
            why = _changed(
                maker,
                "--system",
                *_free_uid(),
                "--user-group",
                "--no-create-home",
                "--home-dir",
                str(self.home(role)),
                "--shell",
                "/usr/sbin/nologin",
                "--comment",
                f"Trackbed {self.project} {role}",
                name,
            )
            return TAKEN not in why

        waiting.until(is_ours_or_hopeless, SECONDS, 0.0)
        if not self._ours(name, role):
            raise EngineUnavailable(
                f"the user {name} could not be created: {why or 'another account has that name'}",
                "run as a normal user, or choose another --project",
            )
        return pwd.getpwnam(name)

    def identity(self, role: str, groups: Iterable[str] = ()) -> dict[str, Any]:
        """What a subprocess is told to become the account before it runs anything; {} for a normal user.

        ``env`` and the three streams are the caller's to name (`NOTHING`): what the account can trace, it has.
        """
        if not self.separate:
            return {}
        account = self.get(role)
        return become(account.pw_uid, account.pw_gid, groups)

    def remove(self, keep: Iterable[str] = ()) -> tuple[str, ...]:
        """End what still runs as these accounts and remove them, except the roles of ``keep``; gives what stayed."""
        stayed = []
        for role in ROLES if self.separate else ():
            if (account := self.find(role)) is None:
                continue
            self._end(account)
            remover = _tool("userdel")
            if role in keep or remover is None:
                stayed.append(account.pw_name)
                continue
            _changed(remover, account.pw_name)
            if self._ours(account.pw_name, role):
                stayed.append(account.pw_name)
        return tuple(stayed)

    def end(self, role: str) -> None:
        """End every process of a role's account, also those that its programs have hidden from the supervisor."""
        if self.separate and (account := self.find(role)):
            self._end(account)

    @staticmethod
    def _end(account: pwd.struct_passwd) -> None:
        """SIGKILL for every process of the account and no other's. Bounded.

        All at once, where none of them is in a container. A container may have a user of the same uid, whom the kernel
        does not tell apart: then one by one, without those.
        """
        uid = account.pw_uid

        def none_left() -> bool:
            if any(map(process_table.in_container, process_table.of_account(uid))):
                process_table.kill_of_account(uid, spared=process_table.in_container)
            else:
                running = process_table.owners() | {uid}
                spare = next((one for one in SPARE if one not in running), uid)
                commands.run((sys.executable, "-I", "-S", "-c", KILLER, str(uid), str(spare)), None, SECONDS)
            return all(map(process_table.in_container, process_table.of_account(uid)))

        waiting.until(none_left, END_SECONDS, 0.1)


def missing_capabilities(status: Path = Path("/proc/self/status")) -> list[str]:
    """The capabilities that root here lacks to run services as accounts of their own; a container may have fewer."""
    try:
        line = re.search(r"^CapEff:\s*([0-9a-f]+)$", status.read_text(), re.MULTILINE)
    except OSError:
        return []  # not Linux
    have = int(line[1], 16) if line else -1
    return [name for name, bit in NEEDED.items() if not have >> bit & 1]


def becoming_fails() -> str:
    """Why root here cannot become another account, "" where it can: a user namespace may have no other ids."""
    try:
        succeeds(["true"], become(NOBODY, NOBODY))
    except (OSError, subprocess.SubprocessError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def succeeds(argv: Sequence[str], identity: Mapping[str, Any]) -> bool:
    """Run a command as another account, which gets nothing of root's; whether it ended well, and in time."""
    try:
        return subprocess.run(argv, **NOTHING, timeout=30, check=False, **identity).returncode == 0
    except subprocess.TimeoutExpired:  # the account's other processes may have stopped it
        return False


def become(uid: int, gid: int, groups: Iterable[str] = ()) -> dict[str, Any]:
    """What a subprocess is told to become an account. Away from root's terminal: who shares its session may type in it
    (/dev/tty, TIOCSTI), and then root's shell runs that.
    """
    return {"user": uid, "group": gid, "extra_groups": [int(group) for group in groups], "start_new_session": True}


def _free_uid() -> tuple[str, ...]:
    """useradd's words for a uid that nobody has, no running process either; none where it has to choose itself."""
    running = process_table.owners()
    free = next((uid for uid in FREE if uid not in running and not _has_name(uid)), None)
    return () if free is None else ("--uid", str(free))


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _tool(name: str) -> str | None:
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")


def _changed(*argv: str) -> str:
    """Run useradd or userdel; while another one holds the lock of /etc/passwd, again. Gives its words, "" when done."""
    problem = ""

    def has_run() -> bool:
        nonlocal problem
        done = commands.run(argv, None, SECONDS, env={**os.environ, "LC_ALL": "C"})  # in words that are known here
        problem = " ".join(done.stderr.split()) if done.code else ""
        return "lock" not in problem

    waiting.until(has_run, SECONDS, 0.2)
    return problem
