"""What --to and `restore` name: a file, a backup repository in a folder, or one in a bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from helpers import safe_files, service_accounts
from helpers.backups import archive, encrypted, repository
from helpers.backups.bucket import Access, Bucket
from helpers.backups.repository import Snapshot
from helpers.backups.storage import BlobStore, Folder
from helpers.errors import SettingError, TrackbedError
from helpers.project.state import make_folder

if TYPE_CHECKING:
    from helpers.settings import Settings

Source = Path | Snapshot
ACCESS = ("ENDPOINT", "REGION", "ACCESS_KEY", "SECRET_KEY")  # settings of a store, as Access has them


class NoBackup(TrackbedError):
    """There is none of that name."""


def archive_path(settings: Settings, why: str = "") -> Path:
    """A new archive's path in the state folder's backups; ``why`` begins its name."""
    folder = make_folder(settings.folder / "backups", private=True)
    return folder / f"{why}trackbed-{settings.project}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"


def target(settings: Settings, to: str) -> Path | BlobStore:
    """A file to write, or the repository that ``to`` names, with a key of its own where it is to be encrypted.

    "": a file in the state folder's backups.
    """
    if to.startswith("s3:"):
        return encrypted.opened(bucket(settings, to), settings.backup_passphrase, make=True)
    if not to:
        return archive_path(settings)
    path = Path(to).expanduser().absolute()
    if theirs := safe_files.of_account(path, service_accounts.services()):
        raise TrackbedError(
            f"{theirs} is a service's own: it could lead root's backup elsewhere", "name a folder outside the workspace"
        )
    if to.endswith("/") or path.is_dir():
        return encrypted.opened(Folder(path), settings.backup_passphrase, make=True)
    if path.exists():
        raise TrackbedError(f"{path} exists already", "choose another name, or a folder")
    if not path.parent.is_dir():
        raise TrackbedError(f"{path.parent}: there is no such folder", f"mkdir -p {path.parent}")
    return path


def repository_at(settings: Settings, text: str) -> BlobStore:
    """The folder or bucket that ``text`` names, as it is there: not opened with the passphrase."""
    if text.startswith("s3:"):
        return bucket(settings, text.rstrip("/"))
    return Folder(Path(text).expanduser().absolute())


def source(settings: Settings, text: str) -> Source:
    """The backup that ``text`` names: a file; a repository (its newest backup); REPOSITORY/NAME."""
    if text.startswith("s3:"):
        result = _snapshot(settings, text.rstrip("/"), lambda url: bucket(settings, url))
    else:
        path = Path(text).expanduser().absolute()
        # with a passphrase REPOSITORY/NAME is never an archive: whoever can write there could put a plain one there
        is_archive = path.is_file() and not (
            settings.backup_passphrase and repository.is_name(path.name.removesuffix(".json"))
        )
        if is_archive and path.suffix != ".json":
            return path
        result = _snapshot(settings, str(path), lambda path: Folder(Path(path)))
        if result is None and is_archive:
            return path
    if result is None:
        fix = "name a backup's file, a folder with backups, or s3://BUCKET/PREFIX"
        if not text.startswith("s3:") and (files := list(path.glob("*.tar"))):  # of `invoke backup` without a place
            fix = f"name one of the files in it; the newest is {max(files, key=lambda file: file.lstat().st_mtime)}"
        raise NoBackup(f"no backup found: {text}", fix)
    return result


def matching(settings: Settings, text: str, scheduled: str = "") -> list[Path] | tuple[BlobStore, list[str]]:
    """The backups that ``text`` names, all of a place where it names no single one: files, or those of a repository.

    "": the files in the state folder's backups. ``scheduled``: where a schedule's are, for the error.
    """
    path = Path(text).expanduser().absolute() if text else settings.folder / "backups"
    store = _opened(settings, repository_at(settings, text or str(path)))
    if names := repository.names(store):
        return store, names
    if not text.startswith("s3:") and path.is_dir() and (files := sorted(path.glob("*.tar"))):
        return files
    if not text:
        raise TrackbedError(
            f"no backup found: {path}",
            f"those of the schedule are in {scheduled}: name it behind the command"
            if scheduled
            else "`invoke backup` makes one; or name the place behind the command: a folder or s3://BUCKET/PREFIX",
        )
    result = source(settings, text)
    return [result] if isinstance(result, Path) else (result.store, [result.name])


def _opened(settings: Settings, store: BlobStore) -> BlobStore:
    return encrypted.opened(store, settings.backup_passphrase)


def _snapshot(settings: Settings, text: str, make: Callable[[str], BlobStore]) -> Snapshot | None:
    above, _, last = text.rpartition("/")
    chosen = last.removesuffix(".json")
    if repository.is_name(chosen):
        store = _opened(settings, make(above.removesuffix("/backups")))
        return Snapshot(store, chosen) if chosen in repository.names(store) else None
    store = _opened(settings, make(text))
    return newest(store, settings.project)


def newest(store: BlobStore, project: str) -> Snapshot | None:
    """The newest backup of the project; of the only one that is there where there is none of this. None: no backup."""
    result = repository.names(store, project) or repository.names(store)
    if not result:
        return None
    if len({repository.project(name) for name in result}) > 1:
        raise TrackbedError(
            f"{store} has backups of several projects, none of {project}",
            f"name one, as in {Snapshot(store, result[-1])}",
        )
    return Snapshot(store, max(result, key=repository.stamp))


def bucket(settings: Settings, url: str, names: str = "BACKUP_S3") -> Bucket:
    """The place in a bucket that ``url`` names, with the keys of the settings ``names``_..."""
    endpoint, region, *keys = (str(getattr(settings, f"{names}_{name}".lower())) for name in ACCESS)
    for name, value in zip(ACCESS[2:], keys, strict=True):
        if not value:
            key = f"{names}_{name}"
            raise SettingError(
                f"{key} is missing: {url} needs it, in .env (chmod 600) or as TRACKBED_{key} in the environment."
            )
    return Bucket(url, Access(endpoint, region, keys[0], keys[1], names))


def manifest(source: Source) -> dict[str, Any]:
    """What a backup says about itself, its content unread. Raises TrackbedError."""
    return archive.read_manifest(source) if isinstance(source, Path) else source.manifest()


def verify(source: Source, on_progress: archive.ProgressCallback | None = None) -> dict[str, Any]:
    """Read every byte of a backup; gives its manifest. Raises TrackbedError when anything is not as it should be."""
    return archive.verify(source, on_progress) if isinstance(source, Path) else source.verify(on_progress)


def members(source: Source, manifest: dict[str, Any]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of each member in order; the content has to be read before the next is asked for."""
    return archive.members(source, manifest) if isinstance(source, Path) else source.members(manifest)


def small(source: Source, manifest: dict[str, Any], expected: str) -> bytes:
    """The content of a small member of a verified backup; b"" where there is none."""
    if not isinstance(source, Path):
        return source.small(manifest, expected)
    for member, _, content in archive.members(source, manifest, check=False):
        if member == expected:
            return content.read()
        if member not in archive.SMALL:
            break  # they come first
    return b""
