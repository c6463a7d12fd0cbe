"""`invoke usage` and `invoke gc`: what takes room, and removing what was deleted long ago."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass

from helpers import lifecycle, status
from helpers.data import amounts, database, journal
from helpers.engines.base import MLFLOW, Engine, ProgressReporter
from helpers.errors import SettingError, TrackbedError
from helpers.plurals import counted
from helpers.project.project import Project
from helpers.services import Notice
from helpers.sizes import mib

RUNS = (
    "SELECT e.experiment_id || ' ' || count(r.run_uuid) || ' ' || e.lifecycle_stage || ' ' || "
    "regexp_replace(e.name, '\\s+', ' ', 'g') FROM experiments e LEFT JOIN runs r USING (experiment_id) "
    "GROUP BY e.experiment_id ORDER BY e.experiment_id"
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Use:
    """An experiment and what it takes; sizes in bytes, ``growth`` bytes per day over the last seven, ``deleted`` those
    of what was deleted."""

    identity: str
    name: str
    runs: int
    objects: int
    size: int
    growth: int
    deleted: int


@dataclass(frozen=True)
class Usage:
    """All experiments, the database's size and what is free on the disk, in bytes."""

    experiments: tuple[Use, ...]
    database: int
    free: int


def usage(project: Project, progress: ProgressReporter) -> Usage:
    """What takes how much. Artifacts whose experiment is gone are listed as such."""
    engine = status.running(project)
    try:
        progress.step("looking at the artifacts")
        with engine.pipe(MLFLOW, ("trackbed-mlflow", "usage")) as pipe:
            sizes: dict[str, list[int]] = json.loads(amounts.followed(pipe, progress))
    except (TrackbedError, ValueError) as error:
        lines = error.details if isinstance(error, TrackbedError) else ()
        raise TrackbedError(f"the sizes cannot be read: {error}", "`invoke status`", lines) from None
    with database.session(engine, project.state.active["database"]) as opened:
        experiments = [line.split(" ", 3) for line in opened.ask(RUNS)]
        total = int(opened.ask("SELECT pg_database_size(current_database())")[0])
    listed = []
    for identity, runs, stage, name in experiments:
        count, size, recent, gone = sizes.pop(identity, [0, 0, 0, 0])
        shown = name + (" (deleted)" if stage == "deleted" else "")
        listed.append(Use(identity, shown, int(runs), count, size, recent // 7, gone))
    listed += [
        Use(top, "(no experiment)", 0, count, size, recent // 7, gone)
        for top, (count, size, recent, gone) in sorted(sizes.items())
    ]
    return Usage(tuple(sorted(listed, key=lambda use: -use.size)), total, engine.host_facts().disk_free)


def seconds(age: str) -> int:
    """30d, 12h, 1d12h as seconds."""
    if not re.fullmatch(r"(\d+[dhms])+", age):
        raise SettingError(f"--older-than={age}: must be a number with d, h, m or s, as in 30d or 12h")
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([dhms])", age))


@dataclass(frozen=True)
class DeletedExperiment:
    """What was deleted of an experiment (or of one that is gone), and what that takes in bytes."""

    identity: str
    runs: int
    models: int
    objects: int
    size: int


@dataclass(frozen=True)
class Garbage:
    """What was deleted longer ago than some time: by experiment, with how many of these go as a whole; and how many
    deleted runs and models stay, because a registered model version or another run needs them."""

    rows: tuple[DeletedExperiment, ...]
    experiments: int
    protected: int

    @property
    def words(self) -> str:
        runs, models, objects, size = (
            sum(getattr(row, field) for row in self.rows) for field in ("runs", "models", "objects", "size")
        )
        return (
            f"{counted(self.experiments, 'experiment')}, {counted(runs, 'run')}, {counted(models, 'model')}, "
            f"{counted(objects, 'object')} ({mib(size)})"
        )


def _collector(engine: Engine, progress: ProgressReporter, age: str, *options: str) -> Garbage:
    words = ("trackbed-mlflow", "gc", f"{seconds(age)}s", *options)
    try:
        with engine.pipe(MLFLOW, words) as pipe:
            data = json.loads(amounts.followed(pipe, progress))
        rows = tuple(DeletedExperiment(name, *numbers) for name, numbers in sorted(data["rows"].items()))
        return Garbage(rows, data["experiments"], data["kept"])
    except (TrackbedError, ValueError, TypeError, KeyError) as error:
        lines = error.details if isinstance(error, TrackbedError) else ()
        raise TrackbedError(f"what was deleted cannot be collected: {error}", "`invoke logs mlflow`", lines) from None


def deleted(engine: Engine, age: str, progress: ProgressReporter) -> Garbage:
    """What `collect` would remove."""
    progress.step("looking for what was deleted")
    return _collector(engine, progress, age, "--show")


def interrupted_import(project: Project, age: str) -> bool:
    """Whether an import that was interrupted longer ago than ``age`` left artifacts for another try."""
    stored = journal.held(project.state)
    return stored is not None and stored.began <= time.time() - seconds(age)


def collect(project: Project, age: str, progress: ProgressReporter, notice: Notice) -> Garbage:
    """Remove what was deleted longer ago than ``age``, with its artifacts; gives what that was. What an interrupted
    import left goes too."""
    seconds(age)
    with lifecycle.changing(project, notice):  # a backup in progress must not lose objects
        engine = status.running(project)
        if interrupted_import(project, age):
            journal.drop_held(project.state, engine, progress)
        progress.step("removing what was deleted, with its artifacts")
        return _collector(engine, progress, age)
