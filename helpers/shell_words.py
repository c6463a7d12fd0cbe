"""Commands as lists of words, run as they are or printed as a shell reads them, and lines for somebody to type."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
from collections.abc import Iterable


class ShellText(str):
    """Text for a shell to expand, as in ``"$PORT"``: printed as it is. For printing only."""

    __slots__ = ()


def line(argv: Iterable[str]) -> str:
    """The words as one line of a script."""
    return " ".join(word if isinstance(word, ShellText) else shlex.quote(word) for word in argv)


def as_root(command: str) -> str:
    """A command that only root may run, as this user types it on this machine."""
    if os.geteuid() == 0:
        return command
    if shutil.which("sudo") is None:
        return f"su -c {shlex.quote(command)}"
    return f"sudo sh -c {shlex.quote(command)}" if set(command) & set("|&;") else f"sudo {command}"


def account() -> str:
    """The name of the account that runs this, for a line to type."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a uid without an account, as in a container
        return str(os.geteuid())
