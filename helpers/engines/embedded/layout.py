"""Whose folders are whose below STATE_DIR/PROJECT/embedded. As root: what is executed, the logs and every parent are
root's; each service's account owns only what it alone writes, in folders that it cannot move or replace."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from helpers import clone, safe_files, service_accounts
from helpers.engines import socket_folder
from helpers.engines.embedded import accounts
from helpers.engines.embedded.accounts import Accounts
from helpers.errors import TrackbedError
from helpers.project import workspace_folder
from helpers.service_accounts import DATABASE, NOTEBOOK, ROLES, SERVER
from helpers.services import ProgressReporter

LONGEST_SOCKET = "/postgres/.s.PGSQL.5432"
# mode as root, mode as a normal user
OWN = {
    "logs": (0o700, 0o700),
    "app": (0o755, 0o755),
    "secrets": (0o711, 0o700),
    "venvs": (0o755, 0o755),
    "home": (0o755, 0o700),
}
GIVEN = {"artifacts": SERVER, "tmp": SERVER, "pycache": SERVER, "jupyter": NOTEBOOK}
PASSING = ("tmp", "pycache")  # nothing in there lasts, and byte code of another account is not to be run


class Layout:
    """The folders of one project. Looking changes nothing; ``make`` does."""

    def __init__(self, project: str, folder: Path, workspace: Path) -> None:
        self.folder, self.workspace = folder, workspace
        self.accounts = Accounts(project, folder)
        self.as_root = self.accounts.separate
        self.run_folder = socket_folder.choose(folder / "run", LONGEST_SOCKET, self.as_root)

    @property
    def sockets(self) -> Path:
        """The folder of PostgreSQL's socket: the database's and the server's, the notebook does not enter it."""
        return self.run_folder / "postgres" if self.as_root else self.run_folder

    def database(self, major: str) -> Path:
        return self.folder / f"postgres-{major}"

    @property
    def earlier(self) -> bool:
        """Whether the files are as an earlier version left them: root's project, all owned by one account."""
        return self.as_root and os.path.lexists(self.folder) and not safe_files.is_folder(self.folder, 0)

    def trusted(self) -> bool:
        """Whether the folder of the supervisor's socket is ours alone, so that what answers there is ours too."""
        uid = os.geteuid()
        return all(safe_files.is_folder(path, uid) for path in (self.folder, self.run_folder))

    def check(self) -> None:
        """Raises TrackbedError where an earlier version's files have not been taken over yet."""
        if self.earlier:
            raise TrackbedError(
                f"{self.folder} is from an earlier version, where one account owned everything",
                "`invoke up` takes it over",
            )

    def uids(self) -> set[int]:
        """Who this project's processes run as: this account, and those of the roles that are there."""
        accounts_made = [self.accounts.find(role) for role in ROLES]
        return {
            os.geteuid(),
            *(account.pw_uid for account in accounts_made if account),
            *([service_accounts.earlier()] if self.as_root else []),
        }

    def identity(self, service: str, groups: tuple[str, ...] = ()) -> dict[str, object]:
        """What subprocess is told to become the account of a service."""
        return self.accounts.identity(accounts.ROLE_OF[service], groups)

    def make(self, progress: ProgressReporter) -> None:
        """Make what is missing and put right what is not as it has to be. Raises TrackbedError.

        An earlier version's files are taken over: parents and programs become root's, data the roles'.
        """
        try:
            if not self.as_root:
                self._make_own()
                return
            self._check_way()
            self._check_parents()
            created = {role: self.accounts.make(role) for role in ROLES}
            earlier = self.earlier
            self._take_folder()
            self._make_own()
            given = safe_files.Handover()
            server, database, own = created[SERVER], created[DATABASE], created[NOTEBOOK]
            safe_files.give_folder(self.sockets, database.pw_uid, server.pw_gid, 0o710)
            if (was := self.former_notebook) not in (-1, own.pw_uid):
                _add(given, workspace_folder.give_to(self.workspace, was, own.pw_uid, own.pw_gid))
            for role in ROLES:
                account = created[role]
                _add(given, safe_files.give_folder(self.accounts.home(role), account.pw_uid, account.pw_gid, 0o700))
            for name, role in GIVEN.items():
                path, account = self.folder / name, created[role]
                if name in PASSING and safe_files.owner(path) != account.pw_uid:
                    self._remove(path)
                _add(given, safe_files.give_folder(path, account.pw_uid, account.pw_gid, 0o700))
            for path in self.databases():
                if safe_files.owner(path) != database.pw_uid:
                    _add(given, safe_files.give_folder(path, database.pw_uid, database.pw_gid, 0o700))
        except OSError as error:
            raise TrackbedError(
                f"{error.filename}: {error.strerror}",
                "free some disk, fix the permissions, or set STATE_DIR to another folder",
            ) from None
        if earlier or given.changed:
            left = f"; {given.left} links, or files with several names, keep their owner" if given.left else ""
            progress.step(
                "each service has an account of its own now: "
                f"{', '.join(created[role].pw_name for role in ROLES)} ({given.changed} files and folders){left}"
            )

    @property
    def former_notebook(self) -> int:
        """The uid of the account that an earlier version's notebook ran as and whose the workspace is; -1 for none.

        ``make`` gives the workspace to the notebook's account of today.
        """
        was = safe_files.owner(self.folder / "jupyter")
        return was if was > 0 and was == safe_files.owner(self.workspace) else -1

    def databases(self) -> list[Path]:
        """The folders of finished databases, of any major."""
        try:
            names = sorted(os.listdir(self.folder))
        except OSError:
            return []
        return [self.folder / name for name in names if name.startswith("postgres-") and name[9:].isdecimal()]

    def _take_folder(self) -> None:
        if self.folder.is_symlink() or (os.path.lexists(self.folder) and not self.folder.is_dir()):
            raise TrackbedError(
                f"{self.folder} is a link or a file, must be a folder",
                "put a folder in its place; one of another disk: mount --bind",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with safe_files.opened(self.folder) as handle:
            os.fchown(handle, 0, 0)
            os.fchmod(handle, 0o755)

    def _make_own(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        safe_files.own_folder(self.folder, 0o755)
        uid, before = os.geteuid(), self.folder / "home-before"
        home = self.folder / "home"
        if self.as_root and os.path.lexists(home) and not safe_files.is_folder(home, 0):
            self._remove(before)
            home.rename(before)
        for name, modes in OWN.items():
            path = self.folder / name
            if self.as_root and os.path.lexists(path) and not safe_files.is_folder(path, uid):
                self._remove(path)
            safe_files.own_folder(path, modes[not self.as_root])
        if not self.as_root:
            for name in GIVEN:
                safe_files.own_folder(self.folder / name, 0o700)
        elif os.path.lexists(before):
            if os.path.lexists(self.accounts.home(NOTEBOOK)):
                self._remove(before)
            else:
                before.rename(self.accounts.home(NOTEBOOK))
        if self.as_root and self.run_folder.parent != self.folder:
            safe_files.own_folder(self.run_folder.parent, 0o755)
        elif self.as_root and os.path.lexists(self.run_folder) and not safe_files.is_folder(self.run_folder, uid):
            self._remove(self.run_folder)
        safe_files.own_folder(self.run_folder, 0o711 if self.as_root else 0o700)

    @staticmethod
    def _remove(path: Path) -> None:
        if not safe_files.remove(path):
            raise TrackbedError(f"{path} could not be removed", "remove it as its owner")

    def _check_parents(self) -> None:
        """Nobody but root can move away what root executes: the state folder, this clone, the toolkit's Python."""
        uids = self.uids() - {0}
        for path in (self.folder.parent, clone.ROOT, Path(sys.prefix)):
            if changeable := safe_files.changeable(path, uids):
                folder, who = changeable
                raise TrackbedError(
                    f"{folder} can be changed by {who}, and root would run what is put there",
                    f"chown root {folder} && chmod go-w {folder}, or use another folder",
                )

    def _may_enter(self, folder: Path) -> bool:
        """Whether the services can go through a folder; asked as one of them, mode bits do not tell of ACLs."""
        account = self.accounts.find(SERVER)
        who = self.accounts.identity(SERVER) if account else accounts.become(accounts.NOBODY, accounts.NOBODY)
        return accounts.succeeds(["test", "-x", str(folder)], who)

    def _check_way(self) -> None:
        """The services can reach the state folder. Raises TrackbedError with the folder that is closed."""
        existing = next(folder for folder in self.folder.parents if folder.exists())  # the missing ones are made open
        if self._may_enter(existing):
            return
        closed = next(folder for folder in (*reversed(existing.parents), existing) if not self._may_enter(folder))
        raise TrackbedError(
            f"{closed} is closed to the user {self.accounts.name(SERVER)}, who runs the server",
            f"chmod o+x {closed}, or set STATE_DIR to another folder",
        )

    def remove(self) -> tuple[str, ...]:
        """Remove everything, and the accounts where nothing else is theirs; gives a line for each that stays.

        The workspace stays, also an empty one: after `move` it is the other engine's notebook that has it.
        """
        owner = safe_files.owner(self.workspace)
        own = self.accounts.find(NOTEBOOK)
        keep = (NOTEBOOK,) if self.as_root and own and owner == own.pw_uid else ()
        stayed = self.accounts.remove(keep)  # first: what still runs could write
        for path in (self.folder, self.run_folder):
            self._remove(path)
        return tuple(
            f"the account {name} stays"
            + (f", {self.workspace} is its folder" if keep else "")
            + f" (userdel {name} removes it)"
            for name in stayed
        )


def _add(total: safe_files.Handover, further: safe_files.Handover) -> None:
    total.changed += further.changed
    total.left += further.left
