"""What `invoke import` can be given: a file store's folder, an SQLite file or a database on a server; only read.

Files are read by descriptors. They may lie where somebody else writes, as in the notebook's workspace: no link among
them is followed, and nothing is read outside of the folders that were named.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from helpers import safe_files
from helpers.errors import SettingError, TrackbedError
from helpers.imports import databases, own_backups, tracking_server
from helpers.imports.databases import Block, Server
from helpers.imports.tracking_server import TrackingServer

# as the MLflow service's program calls them
FOLDER, SQLITE, ROWS, PAGES = "folder", "sqlite", "rows", "pages"
NOWHERE = Path(os.devnull)  # the path of what has none
TRASH, MODELS, ARTIFACTS = ".trash", "models", "artifacts"
Skip = Callable[[str], bool]
OWN = ("tags", "datasets", "traces", MODELS)  # folders of an experiment that are no runs
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class File:
    """A plain file of a source, open: its path below the folder that was walked, its size and content."""

    path: str
    size: int
    stream: IO[bytes]


@dataclass(frozen=True)
class Source:
    """What is imported. ``path``: the file store's folder or the database's file; ``root``: the folder of it.

    ``server``: a database's address instead; ``tracking``: a running server.
    """

    kind: str
    path: Path
    server: Server | None = None
    tracking: TrackingServer | None = None

    @property
    def root(self) -> Path:
        return self.path if self.kind == FOLDER else self.path.parent

    def __str__(self) -> str:
        return str(self.tracking or self.server or self.path)


def source(text: str) -> Source:
    """The source that ``text`` names. Raises SettingError for one that is none, or that is not read yet."""
    if databases.SCHEME.match(text):
        return Source(ROWS, NOWHERE, databases.server(text))
    if re.match(r"(mssql|oracle)(\+\w+)?:", text):
        raise SettingError(
            f"{text.partition(':')[0]}: of databases on a server, PostgreSQL's and MySQL's are imported. Copy this one "
            "into an SQLite file."
        )
    if re.match(r"https?:", text):
        return Source(PAGES, NOWHERE, tracking=tracking_server.server(text))
    if refused := own_backups.refusal(text):
        raise refused
    if text.startswith("sqlite:"):
        if not (match := re.fullmatch(r"sqlite:///(?P<path>[^?#]+)", text)):
            raise SettingError(
                f"{text}: an SQLite file is named as in sqlite:///mlflow.db or sqlite:////srv/mlflow.db."
            )
        text = match["path"]
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        return Source(FOLDER, _store(path))
    if path.is_file():
        with path.open("rb") as stream:
            begin = stream.read(16)
        if begin == b"SQLite format 3\0":
            return Source(SQLITE, path)
        raise SettingError(
            f"{path} is neither an SQLite database nor a whole backup of Trackbed.",
            f"if it was a backup, `invoke backup.verify {shlex.quote(str(path))}` names what is damaged",
        )
    raise SettingError(
        f"{path}: there is no such file or folder. Name a folder `mlruns`, an SQLite file or an address."
    )


def _store(path: Path) -> Path:
    """The file store at that path, or in the folder `mlruns` there, as MLflow itself looks for it."""
    below = path / "mlruns"
    for folder in (path,) if below.is_symlink() else (below, path):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        if any(name.isdigit() or name in (TRASH, MODELS) for name in names):
            return folder
    raise SettingError(f"{path} is no file store of MLflow's: it has no experiments. Name the folder `mlruns`.")


@contextmanager
def opened(root: Path, path: str = "") -> Iterator[int]:
    """A descriptor of a folder below ``root``; no link is followed below it. Raises OSError."""
    with ExitStack() as stack:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, handle)
        for name in filter(None, path.split("/")):
            handle = stack.enter_context(safe_files.opened(name, handle))
        yield handle


def walk(folder: int, skip: Skip | None = None, left: list[str] | None = None, path: str = "") -> Iterator[File]:
    """Every plain file below a folder, in the order of the names; each is open for one step.

    ``skip``: whether a folder of that path is passed over. ``left`` gets the paths of what is no plain file or folder,
    or cannot be opened.
    """
    yield from _walk(folder, skip or _nothing, left if left is not None else [], path, 0)


def _nothing(path: str) -> bool:
    return False


def _walk(folder: int, skip: Skip, left: list[str], path: str, depth: int) -> Iterator[File]:
    for name in sorted(os.listdir(folder)):
        inner = f"{path}/{name}" if path else name
        try:
            handle = os.open(name, READ, dir_fd=folder)
        except OSError:  # a link, a socket, or not ours to read
            left.append(inner)
            continue
        with ExitStack() as stack:
            info = os.fstat(handle)
            if stat.S_ISREG(info.st_mode):
                yield File(inner, info.st_size, stack.enter_context(os.fdopen(handle, "rb")))
                continue
            stack.callback(os.close, handle)
            if not stat.S_ISDIR(info.st_mode) or depth >= safe_files.DEEPEST:
                left.append(inner)
            elif not skip(inner):
                yield from _walk(handle, skip, left, inner, depth + 1)


def files(chosen: Source, left: list[str]) -> Iterator[File | Block]:
    """What the MLflow service has to read, without artifacts; ``left`` gets what could not be opened.

    A file store comes with all of an experiment together, and in it all of a run together.
    """
    if chosen.tracking:
        yield from tracking_server.files(chosen.tracking, left)
        return
    if chosen.server:
        yield from databases.files(chosen.server)
        return
    with readable(chosen):
        yield from (_store_files if chosen.kind == FOLDER else _database_files)(chosen, left)


def readable(chosen: Source) -> AbstractContextManager[None]:
    """An error of the disk or of permissions while the source is read, in words."""
    return readable_path(str(chosen))


@contextmanager
def readable_path(chosen: str) -> Iterator[None]:
    """The same of what is named by its path."""
    try:
        yield
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else chosen
        raise TrackbedError(
            f"{chosen} cannot be read: {place}: {error.strerror or error}",
            "let your account read it, stop what writes to it, then run the same command again",
        ) from None


def _store_files(chosen: Source, left: list[str]) -> Iterator[File]:
    with opened(chosen.root) as root:
        names = sorted(os.listdir(root))
        yield from _experiments(root, names, "", left)
        if TRASH in names:
            with safe_files.opened(TRASH, root) as trash:
                yield from _experiments(trash, sorted(os.listdir(trash)), f"{TRASH}/", left)
        if MODELS in names:
            with safe_files.opened(MODELS, root) as models:
                yield from walk(models, left=left, path=MODELS)


def _experiments(folder: int, names: list[str], above: str, left: list[str]) -> Iterator[File]:
    for name in names:
        if not re.fullmatch(r"[0-9]+", name):
            continue
        try:
            with safe_files.opened(name, folder) as experiment:
                yield from walk(experiment, _is_artifacts, left, f"{above}{name}")
        except OSError:
            left.append(f"{above}{name}")


def _is_artifacts(path: str) -> bool:
    """Whether a folder is where a file store keeps the artifacts of a run, a model or a trace."""
    words = path.removeprefix(f"{TRASH}/").split("/")
    if words[-1] != ARTIFACTS:
        return False
    return (len(words) == 3 and words[1] not in OWN) or (len(words) == 4 and words[1] in (MODELS, "traces"))


def _database_files(chosen: Source, left: list[str]) -> Iterator[File]:
    """The database, and what SQLite needs of one that was not closed. Raises TrackbedError where somebody writes."""
    before = _state(chosen.path)
    with opened(chosen.root) as folder:
        for ending in ("", "-wal", "-journal"):
            try:
                handle = os.open(chosen.path.name + ending, READ, dir_fd=folder)
            except FileNotFoundError:
                continue
            with os.fdopen(handle, "rb") as stream:
                info = os.fstat(handle)
                if not stat.S_ISREG(info.st_mode):
                    raise TrackbedError(
                        f"{chosen.path}{ending} is no plain file", "copy the database, and name the copy"
                    )
                yield File(f"source.db{ending}", info.st_size, stream)
    if _state(chosen.path) != before:
        raise TrackbedError(f"{chosen.path} was written to meanwhile", "stop the server that uses it, then try again")


def _state(path: Path) -> list[tuple[int, int] | None]:
    """What changes when a database is written to."""
    result: list[tuple[int, int] | None] = []
    for ending in ("", "-wal", "-journal"):
        try:
            info = os.lstat(f"{path}{ending}")
            result.append((info.st_size, info.st_mtime_ns))
        except FileNotFoundError:
            result.append(None)
    return result
