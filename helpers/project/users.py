"""The people who may log in at the gateway: names and salted hashes in one private file of the state folder.

Passwords are generated with 128 random bits and shown once. That makes a cheap hash enough: nobody can try them all,
and a slow one would let strangers keep the machine busy with wrong passwords.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.errors import SettingError, TrackbedError
from helpers.project.state import make_folder, write_private
from helpers.suggestions import did_you_mean, nearest, shown

if TYPE_CHECKING:
    from helpers.settings import Settings

FILE = "users"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE = re.compile(r"(?P<name>[^:\s]+):(?P<salt>[0-9a-f]{32}):(?P<hash>[0-9a-f]{64})")
END = "end"  # the last line; the gateway ignores a file without it, because that is still being written


@dataclass(frozen=True)
class Login:
    """A salted hash of one person's password, both in hexadecimal."""

    salt: str
    hash: str


def path(settings: Settings) -> Path:
    return settings.folder / FILE


def load(settings: Settings) -> dict[str, Login]:
    """Everybody who may log in, by name. Raises TrackbedError for a damaged file."""
    try:
        lines = path(settings).read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TrackbedError(f"{path(settings)}: {error.strerror}", "run as the user who made it") from None
    result = {}
    for line in lines:
        if line != END:
            match = _LINE.fullmatch(line)
            if match is None:
                raise TrackbedError(
                    f"{path(settings)} is damaged",
                    f"mv {path(settings)} {path(settings)}.broken, then add everybody again",
                )
            result[match["name"]] = Login(match["salt"], match["hash"])
    return result


def render(logins: Mapping[str, Login]) -> str:
    """The file's text, as the gateway reads it."""
    return "".join(f"{name}:{login.salt}:{login.hash}\n" for name, login in sorted(logins.items())) + END + "\n"


def exported(logins: Mapping[str, Login]) -> bytes:
    """Everybody, for a backup."""
    return json.dumps({name: [login.salt, login.hash] for name, login in sorted(logins.items())}).encode()


def imported(content: bytes) -> dict[str, Login]:
    """What ``exported`` wrote. Raises TrackbedError for anything else."""
    try:
        result = {str(name): Login(*map(str, words)) for name, words in json.loads(content).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        result = {"": Login("", "")}
    for name, login in result.items():
        if not _NAME.fullmatch(name) or not _LINE.fullmatch(f"{name}:{login.salt}:{login.hash}"):
            raise TrackbedError("the users in the backup are no users", "use another backup")
    return result


def restore(settings: Settings, logins: Mapping[str, Login]) -> tuple[str, ...]:
    """Let the people of a backup in where there is nobody yet; gives their names. Who is there stays as he is."""
    if not logins or load(settings):
        return ()
    _save(settings, logins)
    return tuple(sorted(logins))


def _save(settings: Settings, logins: Mapping[str, Login]) -> None:
    make_folder(settings.folder)
    write_private(path(settings), render(logins).encode())


def make(password: str) -> Login:
    """The salted hash of a password."""
    salt = secrets.token_bytes(16)
    return Login(salt.hex(), hashlib.sha256(salt + password.encode()).hexdigest())


def _generate() -> str:
    return secrets.token_hex(16)  # 128 bits; no character that a shell, a URL or .netrc would mind


def add(settings: Settings, name: str) -> str:
    """A new person; gives the password, which is kept nowhere. Raises SettingError for a name that is taken or odd."""
    if not _NAME.fullmatch(name):
        raise SettingError(
            f"user {shown(name)}: must be 1 to 64 letters, digits and any of . _ @ -, the first a letter or digit."
        )
    logins = load(settings)
    if name in logins:
        raise SettingError(f"user {name} exists already; `invoke users.passwd {name}` gives a new password.")
    password = _generate()
    _save(settings, {**logins, name: make(password)})
    return password


def passwd(settings: Settings, name: str) -> str:
    """A new password for somebody who is there; the old one is refused from now on."""
    logins = _with(settings, name)
    password = _generate()
    _save(settings, {**logins, name: make(password)})
    return password


def remove(settings: Settings, name: str) -> str:
    """Somebody who can no longer log in; gives "", as there is no password to show."""
    logins = _with(settings, name)
    del logins[name]
    _save(settings, logins)
    return ""


def _with(settings: Settings, name: str) -> dict[str, Login]:
    logins = load(settings)
    if name not in logins:
        raise unknown(name, logins)
    return logins


def unknown(name: str, logins: Iterable[str]) -> SettingError:
    """The error for a user that there is not."""
    guess = did_you_mean(nearest(name, logins))
    return SettingError(f"user {shown(name)}: there is no such user.{guess}", "`invoke users.list` names them")


def forget(settings: Settings) -> None:
    """Delete everybody: for when the data are deleted."""
    path(settings).unlink(missing_ok=True)
