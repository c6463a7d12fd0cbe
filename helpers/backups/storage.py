"""Where a backup repository is stored: a folder, or a bucket. Small named blobs, written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from helpers import safe_files
from helpers.errors import TrackbedError
from helpers.project.state import make_folder

INCOMING = "incoming"  # a folder's blobs that have no name yet
LEFTOVER = 3600.0  # seconds after which one of these is nobody's any more, where the disk knows no locks
URL = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,62})(?:/(?P<prefix>[^\x00-\x1f]*))?")
ATTEMPTS = 4
ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
T = TypeVar("T")


def scratch() -> sqlite3.Connection:
    """A database in a file that nobody else sees and that goes with it: for what may be too much for the memory."""
    created = sqlite3.connect("", check_same_thread=False)  # one after the other
    created.execute("PRAGMA journal_mode = OFF")
    return created


class Missing(Exception):
    """There is no such blob, or no plain file of that name."""


class Unreadable(TrackbedError):
    """The blob is there, but the disk or its permissions do not let it be read."""


class BlobStore(Protocol):
    """Blobs by path. Safe to use from several threads, except ``begin`` and ``holds``."""

    def begin(self) -> None:
        """Make it ready to be written to."""

    def read(self, path: str, most: int) -> bytes:
        """A blob; one of more than ``most`` bytes is cut behind the first of these. Raises Missing, TrackbedError."""

    def write(self, path: str, content: bytes) -> None:
        """Store a blob; it is there whole or not at all, and lasts once ``sync`` has returned."""

    def holds(self, path: str, size: int) -> bool:
        """Whether a lasting blob of that size is there, without reading it. After ``begin``."""

    def names(self, below: str) -> list[str]:
        """The names of the blobs directly below a path."""

    def listed(self, below: str, after: str = "") -> Iterator[tuple[str, int]]:
        """Path and size of every blob below a path, in the order of their paths; those behind ``after``."""

    def sync(self) -> None:
        """Return when everything written lasts."""


class Folder:
    """Blobs as files, 0600 in folders 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed: set[Path] = set()

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def _made(self, path: str) -> Iterator[int]:
        """A descriptor of a folder of the repository, which is made where it is missing.

        Whoever handed the repository over may have put links into it: they would lead our files, and what is cleaned
        up, elsewhere. The repository itself may be a link, its name is ours.
        """
        handle = os.open(self.path, ROOT)
        try:
            for name in filter(None, path.split("/")):
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=handle)
                inner = os.open(name, safe_files.FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    def begin(self) -> None:
        make_folder(self.path, private=True)
        try:
            with self._made(INCOMING) as incoming:
                for name in os.listdir(incoming):
                    with suppress(FileNotFoundError):  # whoever wrote it has just named it
                        if _is_left(name, incoming):
                            os.unlink(name, dir_fd=incoming)
        except OSError as error:
            raise TrackbedError(
                f"{self.path / INCOMING}: {_why(error)}", "choose another destination with --to"
            ) from None

    def read(self, path: str, most: int) -> bytes:
        try:
            # neither links, which lead elsewhere, nor pipes, which would wait
            handle = os.open(self.path / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as stream:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise Missing(path)
                return stream.read(most + 1)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
                raise Missing(path) from None
            raise Unreadable(f"{self.path / path}: {error.strerror}", "is this a backup's folder?") from None

    def write(self, path: str, content: bytes) -> None:
        above, _, name = path.rpartition("/")
        target, part = self.path / path, secrets.token_hex(8)
        try:
            make_folder(self.path, private=True)
            with self._made(INCOMING) as incoming, self._made(above) as folder:
                try:
                    with os.fdopen(_incoming(part, incoming), "wb") as stream:
                        stream.write(content)
                        stream.flush()
                        os.fsync(stream.fileno())  # `holds` may believe a name
                        if _is_folder(name, folder):  # whatever it is: no piece
                            os.rename(name, f"{part}.aside", src_dir_fd=folder, dst_dir_fd=incoming)
                        os.replace(part, name, src_dir_fd=incoming, dst_dir_fd=folder)
                except BaseException:
                    with suppress(FileNotFoundError):
                        os.unlink(part, dir_fd=incoming)
                    raise
        except OSError as error:
            raise TrackbedError(
                f"{target}: {_why(error)}", "free the disk or choose another destination with --to"
            ) from None
        self._changed |= {target.parent, target.parent.parent}

    def holds(self, path: str, size: int) -> bool:
        try:
            info = (self.path / path).lstat()
        except OSError:
            return False
        return stat.S_ISREG(info.st_mode) and info.st_size == size

    def names(self, below: str) -> list[str]:
        try:
            return sorted(entry.name for entry in (self.path / below).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise TrackbedError(f"{self.path / below}: {error.strerror}", "is this a backup's folder?") from None

    def listed(self, below: str, after: str = "") -> Iterator[tuple[str, int]]:
        try:
            for entry in sorted(os.scandir(self.path / below), key=lambda result: result.name):
                path = f"{below.rstrip('/')}/{entry.name}".lstrip("/")
                if entry.is_dir(follow_symlinks=False):
                    if f"{path}0" > after:  # "0" comes behind "/"
                        yield from self.listed(path, after)
                elif path > after:
                    yield path, entry.stat(follow_symlinks=False).st_size
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return  # what should be there is missed by whoever reads it
        except OSError as error:
            raise TrackbedError(f"{self.path / below}: {error.strerror}", "is this a backup's folder?") from None

    def sync(self) -> None:
        try:
            for folder in (*sorted(self._changed), self.path, self.path.parent):
                handle = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        except OSError as error:
            raise TrackbedError(f"{self.path}: {error.strerror}", "choose another destination with --to") from None
        self._changed.clear()


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOTDIR, errno.ELOOP):
        return "a backup's folder must not be a link or a file"
    return error.strerror or str(error)


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _incoming(part: str | Path, folder: int | None = None) -> int:
    """A new file of that name, locked as long as it is open: whoever cleans up sees that it is somebody's."""
    while True:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            os.stat(part, dir_fd=folder, follow_symlinks=False)
            return handle
        except FileNotFoundError:
            os.close(handle)  # removed between the two


def _is_left(entry: str | Path, folder: int | None = None) -> bool:
    """Whether the backup that wrote this has ended before it could name it."""
    if not stat.S_ISREG(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
        return False
    handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return os.fstat(handle).st_mtime < time.time() - LEFTOVER
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Access:
    """How to reach an S3 store. ``endpoint`` "": AWS."""

    endpoint: str
    region: str
    key: str
    secret: str

    def __repr__(self) -> str:
        return f"Access({self.endpoint!r})"  # never the keys


class Bucket:
    """Blobs as objects of an S3 bucket, below a prefix."""

    def __init__(self, url: str, access: Access) -> None:
        match = URL.fullmatch(url)
        if match is None or ".." in (match["prefix"] or "").split("/"):
            raise TrackbedError(f"{url}: is not the address of a bucket", "as in s3://BUCKET or s3://BUCKET/PREFIX")
        self.bucket, prefix = match["bucket"], (match["prefix"] or "").strip("/")
        self.root = f"{prefix}/" if prefix else ""
        self._access = access
        self._made: Any = None
        self._known: sqlite3.Connection | None = None

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.root}".rstrip("/")

    @property
    def _client(self) -> Any:
        if self._made is None:
            import boto3  # half a second: only where it is needed
            from botocore.config import Config

            # other S3 servers refuse the checksums that AWS's own sends by default
            config = Config(
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=16,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            self._made = boto3.client(
                "s3",
                endpoint_url=self._access.endpoint or None,
                region_name=self._access.region,
                aws_access_key_id=self._access.key,
                aws_secret_access_key=self._access.secret,
                config=config,
            )
        return self._made

    def _ask(self, call: Callable[[], T]) -> T:
        """What the store answers. Raises Missing, or TrackbedError with what to do."""
        from botocore import exceptions

        try:
            return call()
        except exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("NoSuchKey", "404"):
                raise Missing from None
            if code == "NoSuchBucket":
                raise TrackbedError(
                    f"{self}: there is no bucket {self.bucket}", "make it at that store, or name another"
                ) from None
            hint = (
                "BACKUP_S3_ENDPOINT, _REGION, _ACCESS_KEY and _SECRET_KEY belong to that store?"
                if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403")
                else "run it again"
            )
            kind = Unreadable if code in ("AccessDenied", "403", "InvalidObjectState") else TrackbedError
            raise kind(f"{self}: the store refuses: {error}", hint) from None
        except (exceptions.BotoCoreError, OSError) as error:
            raise TrackbedError(
                f"{self}: {' '.join(str(error).split())}",
                "does BACKUP_S3_ENDPOINT answer? Then run the same command again: it goes on with what is there",
            ) from None

    def begin(self) -> None:
        # what is there, in a file of this process's own: asking for each blob would cost a request each
        known = scratch()
        known.execute("CREATE TABLE blob (path TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID")
        known.executemany("INSERT INTO blob VALUES (?, ?)", self.listed("pieces/"))
        self._known = known

    def listed(self, below: str, after: str = "") -> Iterator[tuple[str, int]]:
        more: dict[str, str] = {"StartAfter": self.root + after} if after else {}
        while True:
            page = self._ask(
                lambda m=more: self._client.list_objects_v2(  # type: ignore[misc]
                    Bucket=self.bucket, Prefix=self.root + below, **m
                )
            )
            for item in page.get("Contents", ()):
                yield item["Key"].removeprefix(self.root), item["Size"]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, path: str, most: int) -> bytes:
        from botocore import exceptions

        def get() -> bytes:
            for left in reversed(range(ATTEMPTS)):
                answer = self._client.get_object(Bucket=self.bucket, Key=self.root + path)
                body = answer["Body"]
                try:  # only a read to the end notices one that came too early
                    return bytes(body.read() if answer["ContentLength"] <= most else body.read(most + 1))
                except (exceptions.HTTPClientError, exceptions.IncompleteReadError):
                    if not left:  # boto3 repeats a request, but not an answer that ends in the middle
                        raise
            raise AssertionError

        return self._ask(get)

    def write(self, path: str, content: bytes) -> None:
        self._ask(lambda: self._client.put_object(Bucket=self.bucket, Key=self.root + path, Body=content))

    def holds(self, path: str, size: int) -> bool:
        assert self._known is not None
        row = self._known.execute("SELECT size FROM blob WHERE path = ?", (path,)).fetchone()
        return bool(row == (size,))

    def names(self, below: str) -> list[str]:
        return sorted(path.removeprefix(f"{below}/") for path, _ in self.listed(f"{below}/"))

    def sync(self) -> None:
        """S3 answers when an object is stored."""
