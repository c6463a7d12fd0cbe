"""systemd: the words of a unit's file, and units of this user, or of the system as root."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from typing import Any

from helpers import commands
from helpers.errors import TrackbedError
from helpers.services import ExecResult

RUNNING = Path("/run/systemd/system")  # there when systemd is this machine's init
RUNTIME = Path("/run/user")  # logind makes a folder of each user's in it
LINGER = Path("/var/lib/systemd/linger")


def usable() -> bool:
    """Whether it would run a unit."""
    return RUNNING.exists() and shutil.which("systemctl") is not None


def answers() -> bool:
    """The same, and its manager for this user can be asked: one without a session has none."""
    return usable() and _systemctl("show-environment", timeout=30).code == 0


def folder() -> Path:
    """Where units are written to."""
    if os.geteuid() == 0:
        return Path("/etc/systemd/system")
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home, "systemd", "user")


def on_boot(project: str) -> str:
    """The unit that starts a project at boot; what needs its services comes after it."""
    return f"trackbed-{project}.service"


def escaped(text: str) -> str:
    return text.replace("%", "%%")  # systemd's specifiers


def word(text: str) -> str:
    """A word of a command line as systemd splits it; $ would be expanded."""
    quoted = escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{quoted}"' if quoted != text or not text.isascii() or any(c in text for c in " '\t;") else text


def ask(*args: str, hint: str = "the unit is written; type that command yourself") -> None:
    """systemctl of this user, or of the system as root. Raises TrackbedError with its words."""
    done = _systemctl(*args, timeout=60)
    if done.code:
        raise TrackbedError(
            f"systemctl {args[0]} failed: {' '.join(done.stderr.split())}",
            hint,
        )


def _systemctl(*args: str, timeout: float) -> ExecResult:
    if os.geteuid() == 0:
        return commands.attempt(["systemctl", *args], timeout)
    return commands.attempt(["systemctl", "--user", *args], timeout, **_session())


def _session() -> dict[str, Any]:
    """How the manager of the user is found from a shell of su or sudo, which has no such variable or another one's."""
    given, own = os.environ.get("XDG_RUNTIME_DIR"), RUNTIME / str(os.geteuid())
    if (given and _is_ours(Path(given))) or not _is_ours(own):
        return {}
    return {"env": {**os.environ, "XDG_RUNTIME_DIR": str(own)}}


def _is_ours(folder: Path) -> bool:
    try:
        return folder.stat().st_uid == os.geteuid()
    except OSError:
        return False


def lingers() -> bool:
    """Whether units run while nobody is logged in: those of the system, and of a user with linger."""
    if os.geteuid() == 0:
        return True
    try:
        return (LINGER / pwd.getpwuid(os.geteuid()).pw_name).exists()
    except KeyError:  # an account that has no name
        return False
