"""`invoke import` into a project that has data, while its MLflow works: first artifacts, then rows in one transaction.

A copy of the database that is switched to would lose what is logged while it is filled, or stop MLflow for as long as
the import takes. One transaction in the active database keeps both: until its end nobody sees anything of the import,
and whatever ends it before leaves artifacts that no row names. They lie below ids that a note in the state folder
keeps: the next import takes them up, or removes them.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from helpers.backups import disk_space, unpack
from helpers.backups.create import Meter
from helpers.data import artifacts, journal
from helpers.data.checksum import SetSum
from helpers.engines.base import MLFLOW, Engine, ProgressReporter
from helpers.engines.streaming import Pipe
from helpers.errors import TrackbedError
from helpers.imports import places, sources
from helpers.imports.places import Content, Location, Survey
from helpers.imports.sources import File, Source
from helpers.project.project import Project
from helpers.project.state import write_private
from helpers.services import Notice

AGAIN = "run the same command again: it goes on"
ALIVE = 64 * 2**20  # bytes of artifacts between two signs of life


@dataclass
class Told:
    """What the MLflow service's program said."""

    locations: list[Location] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    stale: list[int] = field(default_factory=list)


Carry = Callable[[Told, Callable[[], None]], None]


def read(
    project: Project,
    engine: Engine,
    source: Source,
    merge: bool,
    progress: ProgressReporter,
    carry: Carry | None = None,
) -> Told:
    """Have the source read beside the active data. ``carry`` brings the artifacts before anything is written; without
    it nothing is. It is given what was read, and what to call now and then meanwhile."""
    told, left = Told(), list[str]()
    flags = ("--merge" if merge else "--beside", *(() if carry else ("--show",)))
    with engine.pipe(MLFLOW, (artifacts.PROGRAM, "import", source.kind, *flags), fresh=True) as pipe:
        _send(pipe, source, left, progress)
        _listen(pipe, "plan", told, project, progress, bool(carry))
        told.unread += [f"{path} is no plain file, or cannot be opened" for path in left]
        if carry:
            carry(told, lambda: _say(pipe, ""))
            progress.step("writing the rows")
            _say(pipe, "commit")
        _listen(pipe, "end", told, project, progress, bool(carry))
        pipe.finish(artifacts.LONG)
    if carry:
        _note(project).unlink(missing_ok=True)
    return told


def carry(
    engine: Engine,
    source: Source,
    prefix: str,
    survey: Survey,
    progress: ProgressReporter,
    notice: Notice,
    alive: Callable[[], None],
) -> None:
    """Store the artifacts of a survey beside the others, and read them back; ``alive`` is called now and then."""
    _Carrier(engine, source, survey, progress, alive).run(prefix, notice)


def remove_stale(engine: Engine, prefix: str, numbers: list[int], progress: ProgressReporter) -> None:
    """The artifacts of an interrupted import that is not taken up: no row has ever named them."""
    for number in numbers:
        progress.step(f"removing the artifacts below {number}, which an interrupted import left")
        artifacts.drop(engine, prefix, str(number))


def _note(project: Project) -> Path:
    return project.state.folder / journal.IMPORT


def _reserved(project: Project) -> dict[str, int]:
    """The ids of experiments that an interrupted import reserved in the database that is active."""
    try:
        data = json.loads(_note(project).read_bytes())
        if data["database"] != project.state.active["database"]:
            return {}
        return {str(key): int(number) for key, number in data["reserved"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise TrackbedError(
            f"{_note(project)} is damaged", f"remove it: rm {shlex.quote(str(_note(project)))}"
        ) from None


def _send(pipe: Pipe, source: Source, left: list[str], progress: ProgressReporter) -> None:
    meter, size = Meter(progress, "reading"), 0

    def content() -> Iterator[tuple[str, int, IO[bytes]]]:
        nonlocal size
        for count, file in enumerate(sources.files(source, left), 1):
            yield file.path, file.size, Content.of(file)
            size += file.size
            meter.report(size, count)

    progress.step(f"reading {source}")
    artifacts.send(pipe, content(), more=True)


def _say(pipe: Pipe, text: str) -> None:
    try:
        pipe.into.write(f"{text}\n".encode())
        pipe.into.flush()
    except BrokenPipeError:
        pipe.finish()  # tells why


def _listen(pipe: Pipe, last: str, told: Told, project: Project, progress: ProgressReporter, write: bool) -> None:
    """Take in what the program says, until that word."""
    for text in pipe.out:
        line: dict[str, Any] = json.loads(text)
        if "ask" in line:
            _say(pipe, json.dumps(_reserved(project)))
        elif "reserved" in line:
            told.stale = [int(number) for number in line["stale"]]
            if write:  # what was reserved before stays in it until it is taken up or gone
                numbers = {**{f"stale {number}": number for number in told.stale}, **line["reserved"]}
                note = {"database": project.state.active["database"], "reserved": numbers}
                write_private(_note(project), json.dumps(note).encode())
        elif "location" in line:
            told.locations.append(places.location(line["location"]))
        elif "rows" in line:
            done, whole = int(line["rows"]), int(line["of"])
            progress.amount("rows", done, whole, f"{done} of {whole}")
        elif last in line:
            told.remarks, told.counts = line[last]["remarks"], line[last].get("counts", {})
            told.unread = list(dict.fromkeys([*told.unread, *line[last]["unread"]]))
            return
    pipe.finish()
    raise TrackbedError("reading the source ended early", AGAIN)


class _Carrier:
    """Brings what is not there yet below the active prefix; knows what has to be there in the end."""

    def __init__(
        self, engine: Engine, source: Source, survey: Survey, progress: ProgressReporter, alive: Callable[[], None]
    ) -> None:
        self._engine, self._source, self._survey, self._progress, self._alive = engine, source, survey, progress, alive
        self._expected, self._size, self._quiet = SetSum(), 0, 0
        self._kept: list[str] = []

    def run(self, prefix: str, notice: Notice) -> None:
        self._progress.step("objects")
        with sources.readable(self._source):
            renamed = artifacts.write(self._engine, prefix, self._missing())
            for line in [*unpack.renamed_lines(renamed), *self._kept]:
                notice(line)
            self._progress.step("reading the objects back")
            self._compare({old: new for new, old in renamed.items()})

    def _names(self, given: dict[str, str] | None = None) -> Iterator[str]:
        for name, _ in places.read(self._survey.folders):
            yield (given or {}).get(name, name)

    def _tick(self, size: int) -> None:
        self._quiet += size + disk_space.OBJECT
        if self._quiet >= ALIVE:
            self._quiet = 0
            self._alive()

    def _asked(self, asked: IO[bytes]) -> Iterator[str]:
        for name in self._names():
            asked.write(json.dumps(name).encode() + b"\n")
            yield name
        asked.seek(0)

    def _missing(self) -> Iterator[tuple[str, int, IO[bytes]]]:
        """What the store has not, or has otherwise from an interrupted import."""
        disk, meter = disk_space.Watch(self._engine), Meter(self._progress, "objects")
        with tempfile.TemporaryFile() as asked, closing(artifacts.digests(self._engine, self._asked(asked))) as answers:
            for folder in self._survey.folders:
                for name, file in places.read([folder]):
                    stored = next(answers, None)
                    # the answer would be another file's: what the project has could be written over
                    if json.loads(asked.readline() or b"null") != name:
                        raise TrackbedError(
                            f"{name} was not there a moment ago", f"stop what writes to the source; {AGAIN}"
                        )
                    if not self._has(name, file, stored, folder.known):
                        disk.object(file.size)
                        content = Content(file)
                        yield name, file.size, content  # type: ignore[misc]  # all that is asked of it is read
                        disk.took(file.size + disk_space.OBJECT)
                        self._expected.add(content.sha256, file.size, name)
                    self._size += file.size
                    self._tick(file.size)
                    meter.report(self._size, self._expected.count, self._survey.size)

    def _has(self, name: str, file: File, stored: tuple[str, int] | None, known: bool) -> bool:
        if stored is None:
            return False
        digest, size = stored
        if not known:  # nobody but an interrupted import can have stored it
            if size != file.size or not file.stream.seekable() or places.sha256(file) != digest:
                return False
        elif size != file.size or (file.stream.seekable() and places.sha256(file) != digest):
            self._kept.append(f"artifact {name} is another one here than in the source: it stays as it is here")
        self._expected.add(digest, size, name)
        return True

    def _compare(self, given: dict[str, str]) -> None:
        found = SetSum()
        answers = artifacts.digests(self._engine, self._names(given))
        for name, answer in zip(self._names(), answers, strict=False):
            if answer is not None:
                found.add(*answer, name)
                self._tick(answer[1])
        if (found.text, found.count) != (self._expected.text, self._expected.count):
            raise TrackbedError(
                f"the store gives back {found.count} objects that are not those of the source ({self._expected.count})",
                f"stop what writes to the source; {AGAIN}",
            )
