"""`invoke upgrade` and its way back: a newer MLflow over a migrated copy; the old database stays as it was."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers import lifecycle, start, status
from helpers.backups import create, locations, switchover, unpack
from helpers.data import database, journal
from helpers.engines.base import MLFLOW, POSTGRES, STORE, Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.project.project import Project
from helpers.services import Notice
from helpers.settings import BY_NAME, LAST_UP, Settings


@dataclass(frozen=True)
class Change:
    """One line of what an upgrade changes."""

    what: str
    old: str
    new: str


@dataclass(frozen=True)
class Upgraded:
    """What was done: the changes, the archive made before, and whether the database was migrated."""

    changes: tuple[Change, ...]
    archive: Path | None
    migrated: bool


def _schema(engine: Engine) -> dict[str, str | None]:
    done = engine.one_shot(MLFLOW, (unpack.PROGRAM, "schema"))
    try:
        data = json.loads(done.stdout)
    except ValueError:
        lines = tuple(done.stderr.strip().splitlines()[-3:])
        raise TrackbedError("MLflow does not report its schema", "`invoke logs postgres` may show why", lines) from None
    return {key: data[key] for key in ("database", "code", "state")}


def changes(engine: Engine, schema: dict[str, str | None]) -> tuple[Change, ...]:
    """From and to of every image and of the schema."""
    planned = {service.name: service.image for service in engine.plan().services}
    listed = [Change(f"image {s.name}", s.image, planned.get(s.name, "")) for s in engine.services() if s.image]
    return (*listed, Change("MLflow's schema", schema["database"] or "none", schema["code"] or "none"))


def upgrade(project: Project, progress: ProgressReporter, notice: Notice) -> Upgraded:
    """Migrate a copy of the database to this clone's MLflow, prove it and switch to it.

    Raises TrackbedError, and then the old database is the active one, untouched.
    """
    with lifecycle.changing(project, notice):
        engine = status.running(project)
        create.need(engine, POSTGRES, STORE)
        # an interrupted upgrade begins again: `up` refuses the old schema
        journal.recover(project.state, engine, progress)
        engine.prepare(progress)
        schema = _schema(engine)
        listed = changes(engine, schema)
        if schema["state"] == "newer":
            raise TrackbedError(
                f"the database has the schema of a newer MLflow ({schema['database']}) than this "
                f"clone's ({schema['code']})",
                "git pull, or `invoke upgrade --back`",
            )
        if schema["state"] != "older":
            start.bring_up(project, progress, notice)
            return Upgraded(listed, None, False)
        images = {service.name: service.image for service in engine.services()}
        old = {key: project.state.active[key] for key in ("database", "prefix")}
        new = {"database": journal.fresh()["database"], "prefix": old["prefix"]}
        engine.halt(MLFLOW, progress)  # nothing is acknowledged any more until the switch
        try:
            progress.step("backing up")
            path = locations.archive_path(project.settings, "before-upgrade-")
            create.make(project, engine, path, progress)
            kept = {
                **old,
                "schema": schema["database"] or "",
                "image": images.get(MLFLOW, ""),
                "archive": str(path),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            journal.open_change(project.state, engine.name, new, kept)
            progress.step("copying the database")
            database.create(engine, new["database"], old["database"])
            _migrate(project, engine, new, old, progress)
            switchover.switch_to(project, new, progress, notice)
        except BaseException:
            unpack.abandon(project, engine, progress)
            engine.resume(MLFLOW, progress)  # the server of what is active: mostly the old one, with the old schema
            raise
        return Upgraded(listed, path, True)


def _migrate(
    project: Project, engine: Engine, new: dict[str, str], old: dict[str, str], progress: ProgressReporter
) -> None:
    """Migrate the copy, and prove that no run, metric, parameter or tag was lost on the way."""
    before = database.contents(engine, old["database"]).tables
    unpack.migrate(project, new, progress)
    progress.step("probing the copy")
    result = _schema(unpack.beside(project, new))
    if result["state"] != "current":
        raise TrackbedError(
            f"the migrated copy has the schema {result['database']}, not {result['code']}",
            "the active data were not touched; please report it",
        )
    after = database.contents(engine, new["database"]).tables
    for table in ("experiments", "runs", "metrics", "params", "tags", "registered_models", "model_versions"):
        if table in before and before[table][0] != after.get(table, ["none"])[0]:
            raise TrackbedError(
                f"the migrated copy has {after.get(table, ['no'])[0]} rows in {table}, not {before[table][0]}",
                "the active data were not touched; please report it",
            )


def flags_of_up(settings: Settings) -> str:
    """What follows `invoke up` for an earlier version, which does not read what this one left in the clone."""
    places = (("PROJECT", settings.project), ("STATE_DIR", str(settings.state_dir)))
    notes = [
        f"{BY_NAME[name].option}={shlex.quote(value)}"
        for name, value in places
        if settings.origin(name) == LAST_UP or settings.origin(name).startswith("--")
    ]
    return "".join(f" {flag}" for flag in notes)


def _previous_file(project: Project) -> Path:
    return project.settings.folder / journal.KEPT


def back(project: Project, progress: ProgressReporter, notice: Notice) -> tuple[dict[str, Any], Path, bool]:
    """Return to the database kept by the last upgrade.

    Gives what was kept, an archive of what is left behind, and whether the old MLflow could be started here.
    """
    with lifecycle.changing(project, notice):
        engine = status.running(project)
        create.need(engine, POSTGRES, STORE)
        journal.recover(project.state, engine, progress)  # an upgrade interrupted at its end leaves its note
        try:
            kept = {key: str(value) for key, value in json.loads(_previous_file(project).read_bytes()).items()}
        except (OSError, ValueError, AttributeError):
            raise TrackbedError(
                "there is no upgrade to go back from", "`invoke restore` brings back an archive"
            ) from None
        if kept["database"] == project.state.active["database"]:
            raise TrackbedError(f"the earlier database {kept['database']} is the active one already", "`invoke up`")
        if kept["database"] not in database.databases(engine):
            raise TrackbedError(
                f"the earlier database {kept['database']} is gone",
                f"`invoke restore {kept['archive']}`, with the MLflow of that time",
            )
        engine.halt(MLFLOW, progress)
        progress.step("backing up the current data")
        path = locations.archive_path(project.settings, "before-back-")
        create.make(project, engine, path, progress)
        left = {key: project.state.active[key] for key in ("database", "prefix")}
        journal.open_change(
            project.state, engine.name, left
        )  # names what goes once it is not active: killed, `up` does
        project.state.active = {**project.state.active, "database": kept["database"], "prefix": kept["prefix"]}
        project.state.applied = {"hash": "", "identities": {}}
        runnable = unpack.known(engine, kept["schema"]) == "current"
        if not runnable and kept["image"]:
            project.state.remembered["MLFLOW_IMAGE"] = kept["image"]
        project.state.save()
        _previous_file(project).unlink(missing_ok=True)
        journal.recover(project.state, engine, progress)
        return kept, path, runnable or bool(kept["image"])
