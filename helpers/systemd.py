"""systemd: the words of a unit's file, and units of this user, or of the system as root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from helpers import commands
from helpers.errors import TrackbedError

RUNNING = Path("/run/systemd/system")  # there when systemd is this machine's init


def usable() -> bool:
    """Whether it would run a unit."""
    return RUNNING.exists() and shutil.which("systemctl") is not None


def answers() -> bool:
    """The same, and its manager for this user can be asked: one without a session has none."""
    return usable() and commands.attempt([*_systemctl(), "show-environment"], 30).code == 0


def folder() -> Path:
    """Where units are written to."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home, "systemd", "user")


def escaped(text: str) -> str:
    return text.replace("%", "%%")  # systemd's specifiers


def word(text: str) -> str:
    """A word of a command line as systemd splits it; $ would be expanded."""
    quoted = escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{quoted}"' if quoted != text or not text.isascii() or any(c in text for c in " '\t;") else text


def ask(*args: str, hint: str = "the unit is written; type that command yourself") -> None:
    """systemctl of this user, or of the system as root. Raises TrackbedError with its words."""
    done = commands.attempt([*_systemctl(), *args], 60)
    if done.code:
        raise TrackbedError(
            f"systemctl {args[0]} failed: {' '.join(done.stderr.split())}",
            hint,
        )


def _systemctl() -> list[str]:
    return ["systemctl", *([] if os.geteuid() == 0 else ["--user"])]
