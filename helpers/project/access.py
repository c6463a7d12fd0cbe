"""LOCAL_ACCESS: whether MLflow asks for a token on this machine, and why. Looks at whose accounts there are."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from helpers.project.project import AUTO, OPEN, TOKEN, Project
from helpers.settings import Settings
from helpers.suggestions import shown

NOBODY = 65534
NO_SHELLS = ("nologin", "false", "true", "sync", "shutdown", "halt", "git-shell")


def decide(project: Project, neighbours: str = "") -> str:
    """Decide what `auto` means, in ``project.state``; gives the line that says what it is and why. ``neighbours``: who
    may reach the services past this machine, in words.

    Once it is a token it stays one: an account that went may have left programs behind.
    """
    settings, state = project.settings, project.state
    if project.notebook_only:
        return ""
    if project.is_public:
        return (
            "local access: the gateway asks for a login; LOCAL_ACCESS counts without PUBLIC only"
            if settings.local_access != AUTO
            else ""
        )
    if settings.local_access != AUTO:
        asks = "asks for a token" if settings.local_access == TOKEN else "asks for nothing"
        return f"local access: MLflow {asks} (LOCAL_ACCESS from {settings.origin('LOCAL_ACCESS')})"
    before = state.access.get("mode", "")
    reason = _reason(settings, own_accounts(project), neighbours)
    chosen = TOKEN if reason or before == TOKEN else OPEN
    owner = state.access.get("uid") or os.environ.get("SUDO_UID") or str(_uid())
    state.access = {"mode": chosen, "uid": owner}
    if chosen == OPEN:
        return "local access: open, MLflow asks for no token: no other person has an account here"
    why = f"because {reason}" if reason else "as decided before"
    now = "now asks" if before == OPEN else "asks"
    return (
        f"local access: MLflow {now} for a token, {why} (`invoke mlflow-url` prints the link; "
        "--local-access=open turns it off)"
    )


def _reason(settings: Settings, mine: set[int], neighbours: str) -> str:
    if neighbours:
        return neighbours
    names = sorted(other_accounts(mine, settings.folder))
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    verb = "has an account" if len(names) == 1 else "have accounts"
    return f"{', '.join(shown(name, 40) for name in names[:3])}{more} {verb} on this machine"


def own_accounts(project: Project) -> set[int]:
    """The accounts of who runs this: also behind sudo, and who began it (at boot nobody's sudo tells)."""
    given = (os.environ.get("SUDO_UID", ""), project.state.access.get("uid", ""))
    return {_uid(), *(int(text) for text in given if text.isdecimal())}


def person() -> str:
    """The name of who runs this, also behind sudo; "" where it could not be a variable on every engine."""
    uid = os.environ.get("SUDO_UID", "")
    try:
        name = pwd.getpwuid(int(uid) if uid.isdecimal() else _uid()).pw_name
    except KeyError:  # a uid without an account, as in a container
        name = os.environ.get("LOGNAME") or os.environ.get("USER") or ""
    return name if name.isprintable() and not set(name) & set("'\"") else ""


def _uid() -> int:
    return os.getuid()


def other_accounts(mine: Iterable[int], folder: Path) -> set[str]:
    """The accounts with which other people, or the services of another project, can run programs here.

    ``folder`` is this project's, where the accounts of its own services are at home.
    """
    own, result, low = set(mine), set(), _lowest_uid()
    for entry in _entries():
        person = entry.pw_uid >= low and entry.pw_uid != NOBODY and _can_log_in(entry)
        if (person or _of_another_system(entry, folder)) and entry.pw_uid not in own:
            result.add(entry.pw_name)
    return result


def _entries() -> Iterator[pwd.struct_passwd]:
    """Every account that can be seen: a directory service often lists none, but gives one that is asked for."""
    seen: set[int] = set()
    for entry in pwd.getpwall():
        seen.add(entry.pw_uid)
        yield entry
    for uid in sorted(set(_present()) - seen):
        try:
            yield pwd.getpwuid(uid)
        except KeyError:
            continue  # what an account left behind


def _present() -> Iterator[int]:
    """Owners of home folders, and who has a session."""
    try:
        for folder in Path("/home").iterdir():
            yield folder.lstat().st_uid
    except OSError:
        pass
    try:
        yield from (int(folder.name) for folder in Path("/run/user").iterdir() if folder.name.isdecimal())
    except OSError:
        pass


def _can_log_in(entry: pwd.struct_passwd) -> bool:
    return Path(entry.pw_shell or "/bin/sh").name not in NO_SHELLS


def _of_another_system(entry: pwd.struct_passwd, folder: Path) -> bool:
    return entry.pw_name.startswith("trackbed-") and not Path(entry.pw_dir).is_relative_to(folder)


def _lowest_uid() -> int:
    """The first uid of people."""
    if sys.platform == "darwin":
        return 501
    try:
        match = re.search(r"^\s*UID_MIN\s+(\d+)", Path("/etc/login.defs").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1]) if match else 1000
