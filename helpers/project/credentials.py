"""The secrets of a project: made once, kept one a file, given out only to fill a service's file."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helpers import machine_failures
from helpers.errors import TrackbedError
from helpers.project.state import make_folder, write_private
from helpers.settings import BY_NAME, Settings

POSTGRES_PASSWORD = "POSTGRES_PASSWORD"
S3_ACCESS_KEY = "S3_ACCESS_KEY"
S3_SECRET_KEY = "S3_SECRET_KEY"
JUPYTER_TOKEN = "JUPYTER_TOKEN"
MLFLOW_TOKEN = "MLFLOW_TOKEN"
KEK_PASSPHRASE = "MLFLOW_CRYPTO_KEK_PASSPHRASE"
WEBHOOK_KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"
TRACKING_PASSWORD = "TRACKING_PASSWORD"
TRACKING_TOKEN = "TRACKING_TOKEN"
NAMES = (POSTGRES_PASSWORD, S3_ACCESS_KEY, S3_SECRET_KEY, JUPYTER_TOKEN, MLFLOW_TOKEN, KEK_PASSPHRASE, WEBHOOK_KEY)
SEALING = (KEK_PASSPHRASE, WEBHOOK_KEY)  # what rows of the database are encrypted with
GATEWAY_KEY = "GATEWAY_KEY"  # with which the gateway proves the names of logins to MLflow
STORE_SYNC_TOKEN = "STORE_SYNC_TOKEN"  # with which MLflow asks the service that syncs VersityGW's volume
# Made from secrets that the server has and the notebook has not, and replaced with them: the purpose, and which.
DERIVED: Mapping[str, tuple[bytes, tuple[str, ...]]] = {
    GATEWAY_KEY: (b"the gateway's key", (POSTGRES_PASSWORD, S3_SECRET_KEY, KEK_PASSPHRASE)),
    STORE_SYNC_TOKEN: (b"the token of the store's sync", (POSTGRES_PASSWORD, S3_SECRET_KEY, KEK_PASSPHRASE)),
}
FORMER = "FORMER_"  # beside one of these: earlier values, one a line, until the rows are encrypted again

FOLDER = "secrets"
ISSUED = "secrets-issued"  # names only: tells a lost secret from one that never was
_EXTERNAL = "EXTERNAL_"
_THEIRS = re.compile(r"[!-~]{1,4000}")  # of a remote tracking server: whatever that one takes
_GOOD = re.compile(r"[A-Za-z0-9_.~+/=@-]{3,128}")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def _token() -> str:
    while True:
        created = secrets.token_urlsafe(32)
        if created[0] not in "-_":  # a leading dash looks like an option to many tools
            return created


def _access_key() -> str:
    return "trackbed" + "".join(secrets.choice(_ALPHABET) for _ in range(12))


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


_MAKERS: Mapping[str, Callable[[], str]] = {
    POSTGRES_PASSWORD: _token,
    S3_ACCESS_KEY: _access_key,
    S3_SECRET_KEY: _token,
    JUPYTER_TOKEN: _token,
    MLFLOW_TOKEN: _token,
    KEK_PASSPHRASE: _token,
    WEBHOOK_KEY: _fernet_key,
}


@dataclass(frozen=True)
class Credentials:
    """The values by name, and what happened to them on the way.

    ``generated`` were made just now; ``lost`` of these had been made before, so data may still want the old
    ones; ``changed`` were replaced by the user's; ``repaired`` files were open to others until now. ``former`` has
    the earlier values of SEALING by their FORMER name, one a line; ``replaced`` the values until now of our own secrets
    that are others since this call.
    """

    values: Mapping[str, str] = field(repr=False)
    generated: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    repaired: tuple[Path, ...] = ()
    former: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    replaced: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name in NAMES if name not in self.values)

    def render(self, template: str, names: Iterable[str]) -> str:
        """``template`` with ``{NAME}`` replaced for each of ``names``; every other brace stays as it is."""
        expected = tuple(names)
        known = {**self.former, **self.values}
        known |= {name: self.derived(name) for name in expected if name in DERIVED}
        for name in expected:
            if name not in known:
                raise TrackbedError(f"the secret {name} is missing", "make it: `invoke prepare`")
        if not expected:
            return template
        pattern = "|".join(re.escape(name) for name in expected)
        return re.sub(rf"\{{({pattern})\}}", lambda result: known[result[1]], template)

    def derived(self, name: str) -> str:
        """One of DERIVED: an HMAC, from which the secrets that it is made from cannot be told."""
        purpose, sources = DERIVED[name]
        return hmac.new("\0".join(self[source] for source in sources).encode(), purpose, hashlib.sha256).hexdigest()

    def hide(self, text: str) -> str:
        """``text`` with every secret value replaced by ``***``, for logs and errors of other programs."""
        for name, value in self.values.items():
            if value and name != S3_ACCESS_KEY:
                text = text.replace(value, "***")
        return text


def required(settings: Settings) -> tuple[str, ...]:
    """The names of the secrets that a project of these settings has."""
    if not settings.tracking_uri:
        return NAMES
    return (JUPYTER_TOKEN, TRACKING_PASSWORD if settings.tracking_username else TRACKING_TOKEN)


def load(settings: Settings) -> Credentials:
    """The secrets there are; makes and changes nothing but too-open modes."""
    repaired: list[Path] = []
    folder = settings.folder / FOLDER
    values: dict[str, str] = {}
    if os.path.lexists(folder):
        _close_folder(folder, repaired)
    for name in required(settings):
        value = _given(settings, name) or _read(folder / _file(settings, name), repaired)
        if value:
            values[name] = value
    return Credentials(values, repaired=tuple(repaired))


def ensure(settings: Settings) -> Credentials:
    """The secrets, missing ones made, the user's own kept too (later commands need them without the flag)."""
    folder = settings.folder / FOLDER
    repaired: list[Path] = []
    make_folder(settings.folder)
    make_folder(folder, private=True)
    _close_folder(folder, repaired)
    issued = _issued(settings)
    values: dict[str, str] = {}
    generated: list[str] = []
    changed: list[str] = []
    replaced: dict[str, str] = {}
    for name in required(settings):
        path = folder / _file(settings, name)
        kept = _read(path, repaired)
        given = _given(settings, name)
        if given:
            if kept != given:
                if kept and name in SEALING:
                    _keep(folder, name, kept)
                write_private(path, given.encode())
                if kept:
                    changed.append(name)
                    if path.name == name:  # one of a server that is not ours: that one says how long it opens
                        replaced[name] = kept
            values[name] = given
        elif kept:
            values[name] = kept
        elif name == TRACKING_TOKEN:
            values[name] = ""  # a server without a login
        else:
            _refuse_foreign(settings, name, path)
            values[name] = _make(path, _MAKERS[name](), repaired)
            generated.append(path.name)
    now = issued | {_file(settings, name) for name in required(settings)}
    if now != issued:
        write_private(settings.folder / ISSUED, "".join(f"{name}\n" for name in sorted(now)).encode())
    former = {FORMER + name: _former(folder, name, repaired) for name in SEALING if name in values}
    return Credentials(
        values,
        tuple(generated),
        tuple(name for name in generated if name in issued),
        tuple(changed),
        tuple(repaired),
        former,
        replaced,
    )


def _refuse_foreign(settings: Settings, name: str, path: Path) -> None:
    """Raise TrackbedError for a secret of somebody else's service, which cannot be made here."""
    if path.name.startswith(_EXTERNAL):
        whose = "the external object store"
    elif name == TRACKING_PASSWORD:
        whose = f"{settings.tracking_username} at {settings.tracking_uri}"
    else:
        return
    raise TrackbedError(f"{name} of {whose} is missing", f"put {name}=... into {settings.env_file} (chmod 600 it)")


def unkept(settings: Settings) -> Credentials:
    """The user's own secrets, and new ones for the rest, which nothing remembers."""
    values = {
        name: _given(settings, name) or (_MAKERS[name]() if name in _MAKERS else "") for name in required(settings)
    }
    return Credentials(values, former={FORMER + name: "" for name in SEALING})


def renew(settings: Settings) -> tuple[dict[str, str], tuple[str, ...]]:
    """New values for the secrets that were generated; gives the old ones, and the names of those that only their giver
    can change.

    What runs keeps the old ones until the next start takes the new ones over, however often that is interrupted.
    """
    before = ensure(settings)
    theirs = tuple(
        name for name in before.names if _given(settings, name) or _file(settings, name) != name or name not in _MAKERS
    )
    ours = tuple(name for name in before.names if name not in theirs)
    for name in ours:
        if name in SEALING:
            _keep(settings.folder / FOLDER, name, before[name])
        write_private(settings.folder / FOLDER / name, _MAKERS[name]().encode())
    return {**before.replaced, **{name: before[name] for name in ours}}, theirs


def learn(settings: Settings, values: Mapping[str, object]) -> None:
    """Keep earlier values of SEALING, of this project or of one whose data come here; other names are passed over."""
    folder = settings.folder / FOLDER
    for name in SEALING:
        value = str(values.get(name) or "")
        if _GOOD.fullmatch(value) and value != _read(folder / name, []):
            _keep(folder, name, value)


def _keep(folder: Path, name: str, value: str) -> None:
    lines = _former(folder, name, []).split()
    if value not in lines:
        write_private(folder / (FORMER + name), "".join(f"{line}\n" for line in (*lines, value)).encode())


def forget_former(settings: Settings) -> None:
    """Delete the earlier values: nothing is encrypted with them any more."""
    for name in SEALING:
        (settings.folder / FOLDER / (FORMER + name)).unlink(missing_ok=True)


def _former(folder: Path, name: str, repaired: list[Path]) -> str:
    """The earlier values, one a line."""
    return _read(folder / (FORMER + name), repaired, lines=True)


def forget(settings: Settings) -> None:
    """Delete every secret of the project: for when its data are deleted."""
    folder = settings.folder / FOLDER
    try:
        if folder.is_dir() and not folder.is_symlink():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        (settings.folder / ISSUED).unlink(missing_ok=True)
    except OSError as error:
        raise TrackbedError(
            f"{error.filename}: {error.strerror}", "delete it by hand, then run the same command again"
        ) from None


def _given(settings: Settings, name: str) -> str:
    value: str = getattr(settings, BY_NAME[name].field)
    return value


def _file(settings: Settings, name: str) -> str:
    """The file of a secret; keys of a store that is not ours must never become our own store's."""
    if name in (TRACKING_PASSWORD, TRACKING_TOKEN):
        # bound to the server: another address must never be sent this one's password
        return f"{name}.{hashlib.sha256(settings.tracking_uri.encode()).hexdigest()[:12]}"
    external = settings.object_store == "external" and name.startswith("S3_")
    return _EXTERNAL + name if external else name


def _issued(settings: Settings) -> set[str]:
    try:
        return set((settings.folder / ISSUED).read_text(encoding="utf-8", errors="replace").split())
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise TrackbedError(
            f"{settings.folder / ISSUED}: {error.strerror}", "run as the user who made it, or make it yours with chown"
        ) from None


def _close_folder(folder: Path, repaired: list[Path]) -> None:
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise TrackbedError(
            f"{folder} is not a folder of Trackbed's (a link or a file)", f"move it away: mv {folder} {folder}.old"
        )
    if os.geteuid() not in (0, info.st_uid):
        raise TrackbedError(
            f"{folder} belongs to another user (uid {info.st_uid})",
            "run as that user, or choose a folder of your own with --state-dir",
        )
    if info.st_mode & 0o077:
        folder.chmod(0o700)
        repaired.append(folder)


def _read(path: Path, repaired: list[Path], lines: bool = False) -> str:
    """The secret in a file; "" when there is none (or the file is empty). Closes a file others may read.

    ``lines``: one secret a line, those that are none left out.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise TrackbedError(
                f"{path} is a link; a secret has to be a file of its own",
                f"replace it: cp --remove-destination $(readlink -f {path}) {path}",
            ) from None
        raise TrackbedError(
            f"{path}: {error.strerror}", "run as the user who made it, or make it yours with chown"
        ) from None
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise TrackbedError(f"{path} is not a file", f"move it away: mv {path} {path}.old")
        if os.geteuid() not in (0, info.st_uid):
            raise TrackbedError(
                f"{path} belongs to another user (uid {info.st_uid})",
                "run as that user, or choose a folder of your own with --state-dir",
            )
        if info.st_mode & 0o077:
            os.fchmod(handle, 0o600)
            repaired.append(path)
        value = os.read(handle, 65536 if lines else 4096).decode("ascii", "replace").strip()
    finally:
        os.close(handle)
    if lines:
        return "\n".join(word for word in value.split() if _GOOD.fullmatch(word))
    good = _THEIRS if path.name.startswith("TRACKING_") else _GOOD
    if value and not good.fullmatch(value):
        raise TrackbedError(
            f"{path} does not hold a secret (3 to 128 plain characters); it is damaged",
            f"restore it, or move it away to get a new one: mv {path} {path}.broken",
        )
    return value


def _make(path: Path, value: str, repaired: list[Path]) -> str:
    """Create the file with ``value``, whole; if another was faster, take its value."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    write_private(temporary, value.encode())
    try:
        for _ in range(2):
            try:
                os.link(temporary, path)  # fails if the file is there: never overwrites a secret
                return value
            except FileExistsError:
                kept = _read(path, repaired)
                if kept:
                    return kept
                path.unlink()  # empty: left by a full disk
            except OSError:
                break  # a file system without hard links
        os.replace(temporary, path)
        return value
    except OSError as error:
        raise machine_failures.at(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
