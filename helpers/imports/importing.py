"""`invoke import`: a source into a database and a prefix of their own, proven, then switched to as a restore does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from helpers import lifecycle, status
from helpers.backups import disk_space, locations, restore, switchover, unpack
from helpers.backups.create import need
from helpers.backups.meters import Meter
from helpers.data import artifacts, database, journal
from helpers.engines.base import MLFLOW, POSTGRES, STORE, Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.imports import beside, buckets, carrying, places, sources
from helpers.imports.places import Content, Location, Survey
from helpers.imports.sources import Source
from helpers.project.project import Project
from helpers.project.state import write_private
from helpers.services import Notice

NAMED = 20  # of what is missing, how many lines are shown
WHERE = "--artifacts=OLD=NEW names a folder or bucket with artifacts that have moved; --skip-missing imports the rest"
# measured on 2 cores (docs/import.md): rows and artifacts that an import writes and reads back in a second
ROWS, BYTES, OBJECTS, BEGIN = 8_000, 60 * 2**20, 400, 40


@dataclass(frozen=True)
class Read:
    """What the MLflow service read of a source: rows of each table, folders of artifacts, and what it says of them."""

    counts: dict[str, int]
    locations: list[Location]
    remarks: list[str]
    unread: list[str]


@dataclass(frozen=True)
class Imported:
    """What came, or would come. ``missing``: what could not be read, in lines; ``file``: where all of it is listed."""

    counts: dict[str, int]
    objects: int
    size: int
    remarks: list[str]
    missing: list[str]
    file: Path | None = None

    @property
    def seconds(self) -> int:
        """How long the import takes, about."""
        rows = sum(self.counts.values())
        return round(BEGIN + rows / ROWS + self.size / BYTES + self.objects / OBJECTS)


def look(
    project: Project, source: Source, mapped: list[str], merge: bool, progress: ProgressReporter, notice: Notice
) -> Imported:
    """What would come. Changes nothing."""
    found = places.Places(source, mapped, buckets.of(project.settings))
    with lifecycle.changing(project, notice):
        engine = status.running(project)
        result: Read | beside.Told
        if restore.is_empty(project, engine):
            result = _read(engine, source, True, progress)
        else:
            result = beside.read(project, engine, source, merge, progress)
        progress.step("looking at the artifacts")
        survey = found.survey(one for one in result.locations if not one.known)
    return Imported(result.counts, survey.objects, survey.size, result.remarks, [*result.unread, *survey.missing])


def run(
    project: Project,
    source: Source,
    mapped: list[str],
    skip_missing: bool,
    merge: bool,
    progress: ProgressReporter,
    notice: Notice,
) -> Imported:
    """Import a source into this project. Raises TrackbedError, and then it has what it had; the same command goes on.

    ``merge``: what has a name that is taken joins what has it.
    """
    found = places.Places(source, mapped, buckets.of(project.settings))
    lifecycle.up(project, progress, notice)
    with lifecycle.changing(project, notice):
        engine = status.running(project)
        need(engine, POSTGRES, STORE)
        if not restore.is_empty(project, engine):
            journal.drop_held(project.state, engine, progress)
            return _run_beside(project, engine, source, found, skip_missing, merge, progress, notice)
        try:
            new = journal.fresh()
            new["prefix"] = carrying.taken_up(project, engine, source, progress) or new["prefix"]
            journal.open_change(project.state, engine.name, new)
            database.create(engine, new["database"])
            result = _read(unpack.beside(project, new), source, False, progress)
            survey, missing, file = _looked_at(project, found, result, skip_missing, progress)
            carrying.into_empty(project, engine, source, new, survey, progress, notice)
            for line in unpack.put_to_sleep(engine, new["database"]):
                notice(line)
            engine.halt(MLFLOW, progress)  # nothing is logged any more until the switch
            _check_empty(project, engine)
            switchover.switch_to(project, new, progress, notice)
            journal.release(project.state)
        except BaseException:
            switchover.roll_back(project, engine, progress, notice)
            raise
    return Imported(result.counts, survey.objects, survey.size, result.remarks, missing, file)


def _check_empty(project: Project, engine: Engine) -> None:
    if not restore.is_empty(project, engine):
        raise TrackbedError(
            f"project {project.settings.project} was empty when the import began, and is not any more",
            "run the same command again: it imports beside what is there",
        )


def _run_beside(
    project: Project,
    engine: Engine,
    source: Source,
    found: places.Places,
    skip_missing: bool,
    merge: bool,
    progress: ProgressReporter,
    notice: Notice,
) -> Imported:
    """Beside what the project has."""
    survey, missing, file = Survey(), list[str](), None
    prefix = project.state.active["prefix"]

    def carry(told: beside.Told, alive: Callable[[], None]) -> None:
        nonlocal survey, missing, file
        survey, missing, file = _looked_at(project, found, told, skip_missing, progress)
        beside.remove_stale(engine, prefix, told.stale, progress)
        beside.carry(engine, source, prefix, survey, progress, notice, alive)

    told = beside.read(project, engine, source, merge, progress, carry)
    return Imported(told.counts, survey.objects, survey.size, told.remarks, missing, file)


def _looked_at(
    project: Project, found: places.Places, told: Read | beside.Told, skip_missing: bool, progress: ProgressReporter
) -> tuple[Survey, list[str], Path | None]:
    """The artifacts, what is missing, and the file that lists it. Raises TrackbedError where that ends the import."""
    progress.step("looking at the artifacts")
    survey = found.survey(told.locations)
    missing = [*told.unread, *survey.missing]
    file = _write_missing(project, missing)
    if missing and not skip_missing:
        raise _refused(missing, file)
    return survey, missing, file


def _refused(missing: list[str], file: Path | None) -> TrackbedError:
    more = len(missing) - NAMED
    return TrackbedError(
        f"{len(missing)} parts of the source cannot be read; nothing was imported",
        f"{WHERE}; all that is missing is listed in {file}",
        (*missing[:NAMED], *([f"and {more} more"] if more > 0 else ())),
    )


def _read(engine: Engine, source: Source, show: bool, progress: ProgressReporter) -> Read:
    """Let the MLflow service of ``engine`` read the source; ``show``: and write nothing."""
    progress.step(f"reading {source}")
    meter, left, count, size = Meter(progress, "reading"), list[str](), 0, 0

    def content() -> Iterator[tuple[str, int, IO[bytes]]]:
        nonlocal count, size
        for file in sources.files(source, left):
            yield file.path, file.size, Content.of(file)
            count, size = count + 1, size + file.size
            meter.report(size, count)

    disk = disk_space.Watch(engine)
    found: list[Location] = []
    end: dict[str, Any] | None = None
    argv = (artifacts.PROGRAM, "import", source.kind, *(("--show",) if show else ()))
    with engine.pipe(MLFLOW, argv, fresh=True) as pipe:
        artifacts.send(pipe, content())
        for text in pipe.out:
            line = json.loads(text)
            if "location" in line:
                found.append(places.location(line["location"]))
            elif "rows" in line:
                disk.look()
                whole = int(line["of"])
                progress.amount("rows", int(line["rows"]), whole, f"{line['rows']} of {whole}")
            else:
                end = line["end"]
        pipe.finish(artifacts.LONG)
    if end is None:
        raise TrackbedError("reading the source ended early", "run the same command again")
    unread = [*end["unread"], *(f"{path} is no plain file, or cannot be opened" for path in left)]
    return Read(end["counts"], found, end["remarks"], unread)


def _write_missing(project: Project, lines: list[str]) -> Path | None:
    """All that could not be read, beside the archives."""
    if not lines:
        return None
    path = locations.archive_path(project.settings, "not-imported-").with_suffix(".txt")
    write_private(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    return path
