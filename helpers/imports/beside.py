"""`invoke import` into a project that has data, while its MLflow works: first artifacts, then rows in one transaction.

A copy of the database that is switched to would lose what is logged while it is filled, or stop MLflow for as long as
the import takes. One transaction in the active database keeps both: until its end nobody sees anything of the import,
and whatever ends it before leaves artifacts that no row names. They lie below ids that a note in the state folder
keeps: the next import takes them up, or removes them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from helpers.backups.meters import Meter
from helpers.data import artifacts, journal
from helpers.engines.base import MLFLOW, Engine, ProgressReporter
from helpers.engines.streaming import Pipe
from helpers.errors import TrackbedError
from helpers.imports import places, sources
from helpers.imports.carrying import AGAIN, Carrier
from helpers.imports.places import Content, Location, Survey
from helpers.imports.sources import Source
from helpers.project.project import Project
from helpers.project.state import write_private
from helpers.services import Notice


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
    carrier = Carrier(engine, source, survey, progress, alive)
    with sources.readable(source):
        carrier.compare(carrier.store(prefix, notice))


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
