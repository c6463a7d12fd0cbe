"""What `invoke data.add --from` can be given, and its files as one walk each: names first, then content.

A folder may lie where somebody else writes, as in the notebook's workspace: no link among its files is followed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit, urlunsplit

from helpers.backups.bucket import Bucket
from helpers.datasets import archives, download
from helpers.datasets.download import Download, Remote
from helpers.errors import SettingError, TrackbedError
from helpers.imports import buckets
from helpers.imports.sources import File, opened, readable_path, walk
from helpers.plurals import counted
from helpers.services import ProgressReporter
from helpers.settings import Settings
from helpers.suggestions import did_you_mean, shown

NOTHING = Remote(0, "")
MOST_NAMES = 20_000_000
KINDS = "an address (https://...), a folder, an archive (.zip, .tar.gz) or s3://BUCKET/PREFIX"


@dataclass
class Source:
    """Where a data set comes from. ``shown``: without the secrets that an address may have."""

    shown: str

    @property
    def archive(self) -> bool:
        """Whether it is one file, which can have a SHA-256."""
        return True

    def mark(self) -> str:
        """Another one where the content may be another; "" where nobody can tell."""
        return ""

    def ready(self, path: Path, progress: ProgressReporter, sha256: str) -> str:
        """What has to be on this disk is there, at ``path``. Gives the SHA-256 of an archive."""
        return ""

    def walk(self, most: int) -> Iterator[File]:
        """Every file in the same order each time; each is open for one step. Raises TrackbedError."""
        raise NotImplementedError

    def done(self) -> None:
        """The data set is added: what was on this disk for it goes."""


@dataclass
class Folder(Source):
    path: Path

    @property
    def archive(self) -> bool:
        return False

    def mark(self) -> str:
        total = hashlib.sha256()
        for file in self.walk(2**62):
            info = os.fstat(file.stream.fileno())
            total.update(f"{file.size} {info.st_mtime_ns} {file.path}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def walk(self, most: int) -> Iterator[File]:
        left: list[str] = []
        with readable_path(str(self.path)), opened(self.path) as folder:
            for file in walk(folder, left=left):
                if left:
                    break
                yield file
        if left:
            raise TrackbedError(
                f"{self.path}: {shown(left[0])} is a link, no plain file, or not yours to read",
                f"copy what it leads to, as with `cp -rL {self.path} COPY`, and name the copy",
            )


@dataclass
class Archive(Source):
    """It may lie where somebody else writes: what is written is what was summed."""

    path: Path
    _known: tuple[int, ...] = field(default=(), init=False)

    def mark(self) -> str:
        info = self.path.stat()
        return f"{info.st_size} {info.st_mtime_ns}"

    def ready(self, path: Path, progress: ProgressReporter, sha256: str) -> str:
        progress.step(f"reading {self.shown}")
        with self._opened() as stream:
            self._known = _identity(stream)
            summed = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        if sha256 and summed != sha256:
            raise download.wrong_sum(self.shown, summed)
        return summed

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with readable_path(str(self.path)), self.path.open("rb") as stream:
            yield stream

    def walk(self, most: int) -> Iterator[File]:
        with self._opened() as stream:
            yield from archives.walk(stream, self.shown, most)
            if self._known != _identity(stream):
                raise TrackbedError(
                    f"{self.shown} was changed while it was read", "stop what writes there, then try again"
                )


def _identity(stream: IO[bytes]) -> tuple[int, ...]:
    """Another one after any change, also where somebody has set the time of change back."""
    info = os.fstat(stream.fileno())
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


@dataclass
class Fetched(Source):
    """An archive that is fetched first."""

    url: str = field(repr=False)
    local: Download | None = None

    def fetch(self, local: Download) -> None:
        local.from_web(self.url)

    def mark(self) -> str:
        remote = download.look(self.url, self.shown)
        return f"{remote.size} {remote.mark}" if remote and remote.mark else ""

    def ready(self, path: Path, progress: ProgressReporter, sha256: str) -> str:
        progress.step(f"fetching {self.shown}")
        self.local = Download(path, self.url, self.shown, progress)
        self.fetch(self.local)
        return self.local.checked(sha256)

    def walk(self, most: int) -> Iterator[File]:
        assert self.local is not None
        with self.local.path.open("rb") as stream:
            yield from archives.walk(stream, self.shown, most)

    def done(self) -> None:
        if self.local is not None:
            self.local.remove()


@dataclass
class StoredArchive(Fetched):
    """One object of a bucket. ``bucket`` begins where its ``key`` does."""

    bucket: Bucket | None = None
    key: str = ""
    remote: Remote = NOTHING

    def fetch(self, local: Download) -> None:
        assert self.bucket is not None
        local.from_bucket(self.bucket, self.key, self.remote)

    def mark(self) -> str:
        return f"{self.remote.size} {self.remote.mark}"


@dataclass
class Stored(Source):
    """The objects below a prefix."""

    bucket: Bucket

    @property
    def archive(self) -> bool:
        return False

    def mark(self) -> str:
        total = hashlib.sha256()
        for item in self.bucket.items("", {}):
            total.update(f"{item['Size']} {item.get('ETag', '')} {item['Key']}\n".encode())
        return total.hexdigest()

    def walk(self, most: int) -> Iterator[File]:
        left: list[str] = []
        try:
            yield from buckets.Store(self.bucket).files("", left)
        except FileNotFoundError:
            raise TrackbedError(f"{self.shown}: there is no object", "is the prefix right?") from None
        except OSError as error:
            raise TrackbedError(
                f"{self.shown}: {error.strerror}",
                f"{buckets.NAMES}_ACCESS_KEY and _SECRET_KEY have to be of that store",
            ) from None
        if left:
            raise TrackbedError(
                f"{self.shown}: {counted(len(left), 'object')} cannot be files, the first: {shown(left[0])}",
                "name a prefix without them, or restore them from the archive storage first",
            )


def source(text: str, settings: Settings) -> Source:
    """Raises SettingError for what is none."""
    if text.startswith("s3://"):
        return _stored(text, settings)
    parts = urlsplit(text)
    if parts.scheme in ("http", "https") and parts.hostname:
        bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        return Fetched(bare, text)
    if "://" in text:
        raise SettingError(f"--from={shown(text)}: is not read. Name {KINDS}.")
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return Folder(str(path), path)
    if path.is_file():
        return Archive(str(path), path)
    like = did_you_mean(f"https://{text}" if text.startswith("www.") else "")
    raise SettingError(f"--from={shown(text)}: there is no such file or folder.{like} Name {KINDS}.")


def _stored(text: str, settings: Settings) -> Source:
    if not archives.is_archive(text):
        bucket = buckets.of(settings)(text)
        return Stored(str(bucket), bucket)
    above, _, key = text.rpartition("/")
    bucket = buckets.of(settings)(above)
    for item in bucket.items(key, {}):
        if item["Key"] == bucket.root + key:
            remote = Remote(int(item["Size"]), str(item.get("ETag", "")))
            return StoredArchive(text, text, bucket=bucket, key=key, remote=remote)
    raise SettingError(f"--from={text}: there is no such object.")


def names(chosen: Source, most: int) -> list[tuple[str, int]]:
    """The first walk. Raises TrackbedError."""
    result = []
    for file in chosen.walk(most):
        result.append((file.path, file.size))
        if len(result) > MOST_NAMES:
            raise TrackbedError(f"{chosen.shown} has more than {MOST_NAMES} files", "add it in pieces")
    return result
