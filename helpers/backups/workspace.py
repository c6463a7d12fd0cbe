"""The notebook's workspace in a backup: its files as members ``workspace/NAME``, and behind them a list.

The list has their modes and times, the links and folders, and what was left out. docs/backup.md tells what that is.
"""

from __future__ import annotations

import glob
import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from helpers.backups.formats import WITH_WORKSPACE
from helpers.backups.workspace_entries import FILES, FILES_LIST, is_of_workspace
from helpers.data import workspace_files
from helpers.data.workspace_files import Content, Rules, Staged, Unfit
from helpers.errors import TrackbedError
from helpers.plurals import counted
from helpers.services import ProgressReporter
from helpers.sizes import mib
from helpers.suggestions import shown

if TYPE_CHECKING:  # in a pod of a cluster only what tests/unit/test_code_bundle.py names can be imported
    from helpers.backups.salvage import Restorable
    from helpers.engines.base import Engine

NAMED = 20  # entries that are named as left out
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}
Member = tuple[str, int, IO[bytes]]


class NotTaken(TrackbedError):
    """The disk or the notebook does not take the files; all else could go on without them."""


class Writer(Protocol):
    """What an archive and a repository take files with."""

    about: dict[str, Any]

    def holds_file(self, name: str, size: int, mark: str) -> bool: ...

    def file(self, name: str, size: int, stream: IO[bytes], mark: str) -> None: ...

    def files_list(self, size: int, stream: IO[bytes]) -> None: ...


@dataclass
class Kept:
    """What a backup has of the workspace. ``left``: the first entries that it does not have, and why; ``seconds``: that
    the notebook took for a ``problem``."""

    files: int = 0
    size: int = 0
    left_count: int = 0
    left: list[str] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0

    def leave(self, name: str, why: str, size: int = 0) -> None:
        self.left_count += 1
        if len(self.left) < NAMED:
            much = f" ({mib(size, 0)})" if size >= 2**20 else ""
            self.left.append(f"{shown(name, 200)}: {why}{much}")

    @property
    def lines(self) -> list[str]:
        """What is to be said of it."""
        problem = [f"the backup lacks files of {self.problem}"] if self.problem else []
        if not self.left_count:
            return problem
        more = self.left_count - len(self.left)
        return [
            *problem,
            f"left out of the workspace: {counted(self.left_count, 'entry').replace('entrys', 'entries')}",
            *(f"    {line}" for line in self.left),
            *([f"    and {more} more; the list {FILES_LIST} in the backup names them all"] if more else []),
        ]

    @property
    def facts(self) -> dict[str, Any]:
        left = {"workspace_left": self.left_count} if self.left_count else {}
        if not self.problem:
            return left
        return left | {"workspace_problem": self.problem, "workspace_seconds": round(self.seconds, 1)}


def rules(engine: Engine, until: float = math.inf) -> Rules:
    """What the settings leave out, and the data set where that is a folder in the workspace; and what is not there
    ``until`` then."""
    settings, size = engine.settings, engine.settings.backup_workspace_largest
    data = Path(settings.data_volume)
    inside = data.is_absolute() and data.is_relative_to(engine.deployment.workspace)
    data_set = (glob.escape(f"{data.relative_to(engine.deployment.workspace)}"),) if inside else ()
    largest = int(size.rstrip("kmg")) * _UNITS.get(size[-1], 1)
    return Rules((*settings.backup_workspace_exclude, *data_set), largest, until)


class _Spool:
    """JSON lines in a file of this process's own: there may be millions."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the object
        self.count = 0

    def add(self, line: list[Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self.count += 1

    def lines(self) -> Iterator[list[Any]]:
        at = 0
        while True:
            self._file.seek(at)
            line = self._file.readline()
            if not line:
                return
            at = self._file.tell()
            yield json.loads(line)

    def append(self, other: _Spool) -> None:
        other._file.seek(0)
        self._file.seek(0, 2)
        while data := other._file.read(2**20):
            self._file.write(data)

    def stream(self) -> tuple[int, IO[bytes]]:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        return size, self._file


class _Backup:
    def __init__(
        self, engine: Engine, writer: Writer, rules: Rules, progress: ProgressReporter, room: int | None
    ) -> None:
        self.engine, self.writer, self.rules, self.progress, self.room = engine, writer, rules, progress, room
        self.kept, self.lines, self.folders, self.pending = Kept(), _Spool(), _Spool(), _Spool()
        self.pending_bytes = self.done = 0

    def run(self) -> Kept:
        begun = time.monotonic()
        try:
            self._list()
            self._read()
        except Unfit as error:  # nobody's notebook may keep the lab from being backed up
            self.kept.problem, self.kept.seconds = error.message, time.monotonic() - begun
        self.lines.append(self.folders)
        self.writer.files_list(*self.lines.stream())
        return self.kept

    def _list(self) -> None:
        for line in workspace_files.listing(self.engine, self.rules):
            kind, name = line[0], line[1]
            if kind == "left":
                self.kept.leave(name, shown(line[2], 200), line[3])
                self.lines.add(line)
            elif kind == "file":
                size, mark = line[2], "".join(line[5:])
                del line[5:]
                if self.writer.holds_file(name, size, mark):
                    self._have(line)
                else:
                    self.pending.add([name, mark])
                    self.pending_bytes += size
            else:
                (self.folders if kind == "dir" else self.lines).add(line)

    def _have(self, line: list[Any]) -> None:
        self.lines.add(line)
        self.kept.files, self.kept.size = self.kept.files + 1, self.kept.size + line[2]

    def _read(self) -> None:
        if not self.pending.count:
            return
        if self.room is not None and self.room < self.pending_bytes:
            raise NotTaken(
                f"the workspace has {self.pending_bytes / 2**30:.1f} GiB, {self.room / 2**30:.1f} GiB of the disk may "
                "be filled",
                "free some disk, back up to another place with --to, or leave more out with BACKUP_WORKSPACE_EXCLUDE",
            )
        marks = (mark for _, mark in self.pending.lines())
        names = lambda: (name for name, _ in self.pending.lines())  # noqa: E731

        def took(line: list[Any], content: Content | None) -> None:
            mark, name = next(marks), line[1]
            del line[5:]
            if content is None:
                if line[2]:  # else it was deleted, like many a file before
                    self._leave(["left", name, shown(str(line[2]), 200), 0])
                return
            size = line[2]
            self.writer.file(name, size, cast("IO[bytes]", content), mark)
            why = content.end()
            if why.startswith(workspace_files.UNREADABLE):
                self._leave(["void", name, why, size])
            else:
                self._have(line)
                if why:
                    self.kept.leave(name, f"{why}, and may be of two moments; the next backup reads it again")
            self.done += size
            self.progress.amount(
                "workspace", self.done, self.pending_bytes, f"{counted(self.kept.files, 'file')}, {mib(self.done, 0)}"
            )

        workspace_files.read(self.engine, self.rules, names, self.pending_bytes, took)

    def _leave(self, line: list[Any]) -> None:
        self.kept.leave(line[1], line[2], line[3])
        self.lines.add(line)


def about(engine: Engine, asked: bool) -> dict[str, Any]:
    """What the first words of a backup say of it: nothing where it holds no workspace. Raises TrackbedError where the
    notebook does not run."""
    return {"format": WITH_WORKSPACE} if asked and workspace_files.present(engine) else {}


def back_up(
    engine: Engine,
    writer: Writer,
    progress: ProgressReporter,
    room: int | None = None,
    until: float = math.inf,
) -> Kept:
    """Add the workspace to a backup that is of its format. ``room``: bytes that may be written, None for any number;
    ``until``: when it is given up, in seconds since the epoch.

    The notebook's side cannot make the backup fail: what it does not give is missing, and named.
    """
    if writer.about.get("format") != WITH_WORKSPACE:
        return Kept()
    progress.step("workspace")
    return _Backup(engine, writer, rules(engine, until), progress, room).run()


def stage(engine: Engine, rest: Restorable, members: Iterator[Member], progress: ProgressReporter) -> Staged:
    """Bring the workspace of a backup into a hidden folder of the project's, and prove it.

    ``members``: of the backup, up to its end. Raises TrackbedError.
    """
    progress.step("workspace")
    held = _Spool()

    def files() -> Iterator[Member]:
        done = 0
        for name, size, content in members:
            if name == FILES_LIST:
                _spool(content, held)
                return
            if name.startswith(FILES) and workspace_files.is_name(path := name.removeprefix(FILES)):
                yield path, size, content
                done += size
                progress.amount("workspace", done, rest.file_bytes, mib(done, 0))

    try:
        waits = lambda seconds: progress.step(f"the notebook takes no files, for {seconds:.0f} s")  # noqa: E731
        staged = workspace_files.write(engine, rest.file_bytes, files(), lambda: held.stream(), waits)
        if (staged.sums.text, staged.sums.count) != (rest.files_sum, rest.files):
            raise NotTaken(
                f"the workspace gives back {counted(staged.sums.count, 'file')} that are not those of the backup "
                f"({rest.files})",
                "nothing was changed; `invoke restore BACKUP --no-workspace` restores the rest",
            )
        if problem := rest.manifest.get("workspace_problem"):
            staged.problems.insert(0, f"the backup lacks files of {shown(str(problem), 500)}")
    except BaseException as error:
        with suppress(TrackbedError):
            workspace_files.drop(engine)
        if isinstance(error, Unfit):
            raise NotTaken(
                error.message, "nothing was changed; `invoke restore BACKUP --no-workspace` restores the rest"
            ) from None
        raise
    return staged


def _spool(content: IO[bytes], held: _Spool) -> None:
    """The list, line by line; what is no line of a list is none."""
    rest = b""
    while data := content.read(2**20):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > workspace_files.LINE:
            break
        for text in lines:
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, list) and workspace_files.is_line(line, 2**62):
                    held.add(line)


def place(engine: Engine, staged: Staged) -> list[str]:
    """Put what was staged where the user sees it; gives what to tell."""
    name = f"restored-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    count = counted(staged.sums.count, "file")
    folder, stayed = workspace_files.place(engine, staged, name)
    lines = [f"warning: {line}" for line in staged.problems[:NAMED]]
    if folder:
        return [
            f"workspace: {count} of the backup are in its folder {folder}, beside the files that were there",
            *lines,
        ]
    lines = [f"workspace: {count} of the backup", *lines]
    if stayed:
        lines.append(
            f"in the folder {stayed[0]} stayed {', '.join(stayed[1:])}: JupyterLab would run it at its next start, or "
            "the name was taken; move it up where that is meant"
        )
    return lines


def split(members: Iterator[Member]) -> tuple[Iterator[Member], Iterator[Member]]:
    """Members up to the workspace, and those from there on, once the first are read."""
    after: list[Member] = []

    def before() -> Iterator[Member]:
        for member in members:
            if is_of_workspace(member[0]):
                after.append(member)
                return
            yield member

    return before(), itertools.chain.from_iterable([_later(after), members])


def _later(after: list[Member]) -> Iterator[Member]:
    yield from after
