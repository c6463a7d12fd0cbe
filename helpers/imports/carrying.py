"""The artifacts of a source on their way into the store: each is read back, and nothing is stored twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import IO

from helpers.backups import disk_space, unpack
from helpers.backups.meters import Meter
from helpers.data import artifacts, journal
from helpers.data.checksum import SetSum
from helpers.engines.base import Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.imports import places, sources
from helpers.imports.places import Content, Survey
from helpers.imports.sources import File, Source
from helpers.project.project import Project
from helpers.services import Notice

AGAIN = "run the same command again: it goes on"
ALIVE = 64 * 2**20  # bytes of artifacts between two signs of life


def taken_up(project: Project, engine: Engine, source: Source, progress: ProgressReporter) -> str:
    """The prefix that an interrupted import of the same source into this empty project has; "" where there is none.
    What one of another source left is removed."""
    stored = journal.held(project.state)
    if stored and stored.source == _key(source):
        return stored.prefix
    journal.drop_held(project.state, engine, progress)
    return ""


def into_empty(
    project: Project,
    engine: Engine,
    source: Source,
    new: dict[str, str],
    survey: Survey,
    progress: ProgressReporter,
    notice: Notice,
) -> None:
    """The artifacts below a prefix that nothing else has, read back; those that are there already are compared.

    Raises TrackbedError where they are others. Until the journal releases them they stay, whatever ends the import.
    """
    copy = unpack.beside(project, new)
    objects, size = artifacts.total(copy)
    disk_space.check(engine, max(0, survey.objects - objects), max(0, survey.size - size), 0, survey.largest)
    journal.hold(project.state, _key(source), new["prefix"])
    try:
        if not objects or not _goes_on(copy, source, new["prefix"], survey, progress, notice):
            _all(engine, source, new["prefix"], survey, progress, notice)
    except disk_space.Full:
        journal.release(project.state)  # they go: the disk is needed
        raise


def _key(source: Source) -> str:
    return f"{source.kind} {source}"


def _goes_on(
    copy: Engine, source: Source, prefix: str, survey: Survey, progress: ProgressReporter, notice: Notice
) -> bool:
    """Store what an interrupted import has not; whether all of the prefix is the source's then. Where not, it is empty
    afterwards."""
    progress.step("comparing what an interrupted import has stored")
    carrier = Carrier(copy, source, survey, progress, lambda: None)
    with sources.readable(source):
        renamed = carrier.store(prefix, notice)
    stored, _ = artifacts.sums(copy, prefix, renamed)
    if (stored.text, stored.count) == (carrier.expected.text, carrier.expected.count):
        notice(
            f"{carrier.present} of {survey.objects} artifacts were there from an interrupted import, as the source has "
            "them; the others were copied"
        )
        return True
    notice("what an interrupted import has stored is not the source's any more: all artifacts are copied again")
    artifacts.drop(copy, prefix)
    return False


def _all(
    engine: Engine, source: Source, prefix: str, survey: Survey, progress: ProgressReporter, notice: Notice
) -> None:
    progress.step("objects")
    disk, meter, sums, size = disk_space.Watch(engine), Meter(progress, "objects"), SetSum(), 0

    def content() -> Iterator[tuple[str, int, IO[bytes]]]:
        nonlocal size
        with sources.readable(source):
            for name, file in places.read(survey.folders):
                disk.object(file.size)
                read = Content(file)
                yield name, file.size, read  # type: ignore[misc]  # all that is asked of it is read
                disk.took(file.size + disk_space.OBJECT)
                sums.add(read.sha256, file.size, name)
                size += file.size
                meter.report(size, sums.count, survey.size)

    unpack.store_objects(
        engine, prefix, content(), lambda: (sums.text, sums.count, survey.size), "source", progress, notice
    )


class Carrier:
    """Brings what is not there yet below a prefix; knows what has to be there in the end (``expected``).

    ``engine``: sees that prefix as the active one; ``alive`` is called now and then.
    """

    def __init__(
        self, engine: Engine, source: Source, survey: Survey, progress: ProgressReporter, alive: Callable[[], None]
    ) -> None:
        self._engine, self._source, self._survey, self._progress, self._alive = engine, source, survey, progress, alive
        self.expected, self.present, self._size, self._quiet = SetSum(), 0, 0, 0
        self._kept: list[str] = []

    def store(self, prefix: str, notice: Notice) -> dict[str, str]:
        """Gives the names that the store could not give, by those that it gave."""
        self._progress.step("objects")
        renamed = artifacts.write(self._engine, prefix, self._missing()).renamed
        for line in [*unpack.renamed_lines(renamed), *self._kept]:
            notice(line)
        self._progress.step("reading the objects back")
        return renamed

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
                        self.expected.add(content.sha256, file.size, name)
                    self._size += file.size
                    self._tick(file.size)
                    meter.report(self._size, self.expected.count, self._survey.size)

    def _has(self, name: str, file: File, stored: tuple[str, int] | None, known: bool) -> bool:
        if stored is None:
            return False
        digest, size = stored
        if not known:  # nobody but an interrupted import can have stored it
            if size != file.size or not file.stream.seekable() or places.sha256(file) != digest:
                return False
        elif size != file.size or (file.stream.seekable() and places.sha256(file) != digest):
            self._kept.append(f"artifact {name} is another one here than in the source: it stays as it is here")
        self.expected.add(digest, size, name)
        self.present += 1
        return True

    def compare(self, renamed: dict[str, str]) -> None:
        """Read back what is there under the names of the source. Raises TrackbedError where it is another."""
        given = {old: new for new, old in renamed.items()}
        found = SetSum()
        answers = artifacts.digests(self._engine, self._names(given))
        for name, answer in zip(self._names(), answers, strict=False):
            if answer is not None:
                found.add(*answer, name)
                self._tick(answer[1])
        if (found.text, found.count) != (self.expected.text, self.expected.count):
            raise TrackbedError(
                f"the store gives back {found.count} objects that are not those of the source ({self.expected.count})",
                f"stop what writes to the source; {AGAIN}",
            )
