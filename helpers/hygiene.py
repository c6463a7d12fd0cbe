"""`invoke usage` and `invoke gc`: what takes room, and removing what was deleted long ago."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from helpers import lifecycle
from helpers.backups import database
from helpers.engines.base import MLFLOW, Engine, Sink
from helpers.errors import SettingError, TrackbedError
from helpers.lifecycle import Notice
from helpers.system import System

RUNS = ("SELECT e.experiment_id || ' ' || count(r.run_uuid) || ' ' || e.lifecycle_stage || ' ' || "
        "regexp_replace(e.name, '\\s+', ' ', 'g') FROM experiments e LEFT JOIN runs r USING (experiment_id) "
        "GROUP BY e.experiment_id ORDER BY e.experiment_id")
DELETED = ("SELECT experiment_id || ' ' || count(*) FROM runs WHERE lifecycle_stage = 'deleted' AND deleted_time < "
           "(extract(epoch FROM now()) - {age}) * 1000 GROUP BY experiment_id ORDER BY experiment_id")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Use:
    """An experiment and what it takes; sizes in bytes, ``growth`` bytes per day over the last seven."""

    identity: str
    name: str
    runs: int
    objects: int
    size: int
    growth: int


@dataclass(frozen=True)
class Usage:
    """All experiments, the database's size and what is free on the disk, in bytes."""

    experiments: tuple[Use, ...]
    database: int
    free: int


def usage(system: System) -> Usage:
    """What takes how much. Artifacts whose experiment is gone are listed as such."""
    engine = lifecycle.running(system)
    done = engine.exec(MLFLOW, ("trackbed-mlflow", "sizes"), timeout=3600)
    if done.code:
        raise TrackbedError(f"the sizes cannot be read: {done.stderr.strip()[-300:]}", "`invoke status`")
    sizes: dict[str, list[int]] = json.loads(done.stdout)
    with database.session(engine, system.state.live["database"]) as opened:
        lines = [line.split(" ", 3) for line in opened.ask(RUNS)]
        total = int(opened.ask("SELECT pg_database_size(current_database())")[0])
    listed = []
    for identity, runs, stage, name in lines:
        count, size, recent = sizes.pop(identity, [0, 0, 0])
        shown = name + (" (deleted)" if stage == "deleted" else "")
        listed.append(Use(identity, shown, int(runs), count, size, recent // 7))
    listed += [Use(top, "(no experiment)", 0, count, size, recent // 7)
               for top, (count, size, recent) in sorted(sizes.items())]
    return Usage(tuple(sorted(listed, key=lambda use: -use.size)), total, engine.host_facts().disk_free)


def seconds(age: str) -> int:
    """30d, 12h, 1d12h as seconds."""
    if not re.fullmatch(r"(\d+[dhms])+", age):
        raise SettingError(f"--older-than={age}: must be a number with d, h, m or s, as in 30d or 12h")
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([dhms])", age))


def deleted(engine: Engine, live: str, age: str) -> dict[str, int]:
    """Deleted runs older than ``age`` per experiment id."""
    with database.session(engine, live) as opened:
        return {word[0]: int(word[1]) for word in map(str.split, opened.ask(DELETED.format(age=seconds(age))))}


def collect(system: System, age: str, sink: Sink, notice: Notice) -> str:
    """Remove what was deleted longer ago than ``age``, with MLflow's own gc; gives its last words."""
    seconds(age)
    with lifecycle.changing(system, notice):  # a backup in progress must not lose objects
        engine = lifecycle.running(system)
        sink.step("removing deleted runs and their artifacts")
        done = engine.exec(MLFLOW, ("trackbed-mlflow", "gc", age), timeout=24 * 3600)
        lines = (done.stdout + done.stderr).strip().splitlines()
        if done.code:
            raise TrackbedError(f"mlflow gc failed: {lines[-1] if lines else done.code}", "`invoke logs mlflow`",
                                tuple(lines[-5:]))
        return lines[-1] if lines else ""
