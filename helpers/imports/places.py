"""Where the artifacts of a source are. Nothing is read outside of the folders and buckets that were named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit

from helpers.errors import SettingError, TrackbedError
from helpers.imports import downloads, sources
from helpers.imports.buckets import GetBucket, Store
from helpers.imports.databases import Block
from helpers.imports.downloads import Remote
from helpers.imports.sources import File, Source
from helpers.imports.tracking_server import Missing, TrackingServer

BESIDE = ("mlruns", "mlartifacts")  # what MLflow makes beside its database
SERVED, S3 = "mlflow-artifacts:", "s3://"
Root = Path | Store
WORDS = {"run": "run", "model": "logged model", "trace": "trace", "version": "model version"}


@dataclass(frozen=True)
class Location:
    """A folder of artifacts as the MLflow service tells of it (trackbed_mlflow/imports/locations.py)."""

    kind: str
    id: str
    name: str
    experiment: str
    uri: str
    place: str
    target: str
    inside: str
    needed: bool
    known: bool = False

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        where = f" of experiment {self.experiment}" if self.experiment else ""
        return f"{WORDS[self.kind]} {self.id}{name}{where}"


@dataclass(frozen=True)
class Folder:
    """A folder to read: ``path`` below a trusted ``root``; its files get names below ``target``.

    ``known``: the project has whose they are, and may have the files.
    """

    root: Root
    path: str
    target: str
    known: bool = False

    def files(self, left: list[str] | None = None) -> Iterator[File]:
        """Each is open for one step. ``left`` gets the paths of what cannot be read. Raises OSError."""
        if isinstance(self.root, Store):
            yield from self.root.files(self.path, left)
        else:
            with sources.opened(self.root, self.path) as handle:
                yield from sources.walk(handle, left=left)


@dataclass
class Survey:
    """What there is to carry: folders, how many files and bytes; ``missing``: what cannot be read, in lines."""

    folders: list[Folder | Remote] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    objects: int = 0
    size: int = 0
    largest: int = 0


class Content:
    """A file's content, exactly as long as it was when it was opened; knows its SHA-256 at the end."""

    def __init__(self, file: File | Block) -> None:
        self._file, self._left, self._sha = file, file.size, hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._file.stream.read(self._left if count < 0 else min(count, self._left))
        if self._left and not data:
            raise TrackbedError(
                f"{self._file.path} became shorter while it was read", "stop what writes to the source, then try again"
            )
        self._left -= len(data)
        self._sha.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._sha.hexdigest()

    @classmethod
    def of(cls, file: File | Block) -> IO[bytes]:
        return cast("IO[bytes]", cls(file))


@dataclass(frozen=True)
class Mapping:
    """Artifacts whose location begins with ``old`` are in ``new``: a folder, or a place in a bucket."""

    old: str
    new: Root

    @classmethod
    def parse(cls, text: str, bucket: GetBucket) -> Mapping:
        """``text``: OLD=NEW; a bucket alone is read where it is. Raises SettingError."""
        old, equals, url = text.partition(f"={S3}")
        if equals or _is_address(text):
            old, url = (old, S3 + url) if equals else (text, text)
            if not old:
                raise SettingError(f"--artifacts={text}: OLD=NEW is expected, or s3://BUCKET/PREFIX alone.")
            return cls(_plain(old), Store(bucket(url.rstrip("/"))))
        old, _, new = text.rpartition("=")
        folder = Path(new).expanduser().absolute()
        if not old or not new:
            raise SettingError(
                f"--artifacts={text}: OLD=NEW is expected, as in --artifacts=s3://bucket/mlflow=/mnt/copy."
            )
        if not folder.is_dir():
            raise SettingError(f"--artifacts={text}: there is no folder {folder}.")
        return cls(_plain(old), folder)


def _plain(old: str) -> str:
    return (unquote(urlsplit(old).path) if old.startswith("file:") else old).rstrip("/")


def _is_address(text: str) -> bool:
    """Whether that is a place in a bucket alone, whose prefix may hold a = as in day=1."""
    new = text.rpartition("=")[2]
    return text.startswith(S3) and not ("=" in text and (new.startswith(("/", "~", ".")) or Path(new).is_dir()))


class Places:
    """Finds locations of a source on this machine."""

    def __init__(self, source: Source, mappings: Iterable[str], bucket: GetBucket) -> None:
        self._source = source
        parsed = (Mapping.parse(text, bucket) for text in mappings)
        self._mappings = sorted(parsed, key=lambda one: len(one.old), reverse=True)

    def survey(self, locations: Iterable[Location]) -> Survey:
        """Look at all of them, without reading a file."""
        result = Survey()
        for location in locations:
            if self._source.tracking and not self._is_mapped(location.place):
                self._look(self._source.tracking, location, result)
                continue
            chosen = self._candidates(location)
            if not chosen:
                result.missing.append(f"{location}: {location.uri or 'no location'} is outside of what was named")
                continue
            error = ""
            for root, path in chosen:
                try:
                    self._count(Folder(root, path, location.target, location.known), location, result)
                    error = ""
                    break
                except OSError as problem:
                    absent = isinstance(problem, FileNotFoundError) and root.is_dir()
                    if not absent or location.needed:
                        error = f"{location}: {f'{root}/{path}'.rstrip('/')}: {problem.strerror}"
            if error:
                result.missing.append(error)
        return result

    def _count(self, folder: Folder, location: Location, survey: Survey) -> None:
        left: list[str] = []
        for file in folder.files(left):
            survey.objects += 1
            survey.size += file.size
            survey.largest = max(survey.largest, file.size)
        survey.folders.append(folder)
        survey.missing += [f"{location}: {path} is no plain file, or cannot be opened" for path in left]

    def _look(self, server: TrackingServer, location: Location, survey: Survey) -> None:
        """The same for artifacts that a running server has."""
        remote = downloads.folder(server, location.kind, location.id, location.uri, location.target, location.known)
        if remote is None:
            survey.missing.append(f"{location}: {location.uri or 'no location'} cannot be read through the server")
            return
        try:
            for file in remote.files():
                survey.objects += 1
                survey.size += file.size
                survey.largest = max(survey.largest, file.size)
            survey.folders.append(remote)
        except Missing:
            if location.needed:
                survey.missing.append(f"{location}: {location.uri}: the server has nothing there")
        except TrackbedError as error:
            survey.missing.append(f"{location}: {location.uri}: {error.message}")

    def _is_mapped(self, place: str) -> bool:
        return any(place == mapping.old or place.startswith(f"{mapping.old}/") for mapping in self._mappings)

    def _candidates(self, location: Location) -> list[tuple[Root, str]]:
        """A trusted folder, and the path below it; several where the first may be gone."""
        place = location.place
        for mapping in self._mappings:
            if place == mapping.old or place.startswith(f"{mapping.old}/"):
                return _safe(mapping.new, place[len(mapping.old) :])
        root = self._source.root
        if self._source.kind == sources.FOLDER and location.inside and place.endswith(f"/{location.inside}"):
            return [*_safe(root, location.inside), *_safe(root, f"{sources.TRASH}/{location.inside}")]
        return self._beside(place)

    def _beside(self, place: str) -> list[tuple[Root, str]]:
        if self._source.server:
            return []  # its paths are of another machine
        root = self._source.root
        if self._source.kind == sources.FOLDER:
            root = root.parent
        path = place.removeprefix("./")
        if place.startswith(SERVED):
            path = f"mlartifacts/{urlsplit(place).path.lstrip('/')}"
        elif place.startswith("/"):
            if not place.startswith(f"{root}/"):
                return []
            path = place.removeprefix(f"{root}/")
        top = path.partition("/")[0]
        if (top in BESIDE or root / top == self._source.path) and (root / top).is_dir():
            return _safe(root, path)  # from above: a link in the folder's place leads nowhere
        return []


def _safe(root: Root, path: str) -> list[tuple[Root, str]]:
    """A path that does not lead out of its folder; [] for another."""
    words = [word for word in path.split("/") if word]
    return [] if {".", ".."} & set(words) or "\0" in path else [(root, "/".join(words))]


def read(folders: Iterable[Folder | Remote]) -> Iterator[tuple[str, File]]:
    """The name and the file of every artifact."""
    for folder in folders:
        for file in folder.files():
            yield f"{folder.target}/{file.path}", file


def sha256(file: File) -> str:
    """Of a file's content, which can be read again afterwards."""
    content = Content(file)
    while content.read(2**20):
        pass
    file.stream.seek(0)
    return content.sha256


def location(data: dict[str, Any]) -> Location:
    """One line of the MLflow service's program. Raises TrackbedError for one that is none."""
    try:
        return Location(**data)
    except TypeError:
        raise TrackbedError("the MLflow service tells of artifacts in another way", "`invoke up` updates it") from None
