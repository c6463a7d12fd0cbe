"""Restoring an archive beside what is there. Nothing that is active is touched before the copy is proven."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from helpers.backups import damage, disk_space, loading, salvage, workspace
from helpers.backups.create import PORTABLE, need
from helpers.backups.locations import Source
from helpers.backups.meters import Counted, Meter, rows_taken
from helpers.backups.salvage import Restorable
from helpers.backups.workspace_entries import is_of_workspace
from helpers.data import amounts, artifacts, database, journal
from helpers.engines import select
from helpers.engines.base import MLFLOW, POSTGRES, STORE, Engine, ProgressReporter
from helpers.errors import TrackbedError
from helpers.project.project import Project
from helpers.settings import DEFAULT, Settings
from helpers.suggestions import shown

PROGRAM = "trackbed-mlflow"
Member = tuple[str, int, IO[bytes]]


def beside(project: Project, active: dict[str, str]) -> Engine:
    """The engine with these ``active`` data: its fresh commands see that database and those artifacts."""
    return select.current(replace(project, state=replace(project.state, active=active)))


def known(engine: Engine, schema: str) -> str:
    """What a schema revision is to the MLflow of this project: empty, current, older or newer."""
    if not schema:
        return "empty"
    # with an image of somebody's, as after `invoke upgrade --back`, only the server itself knows
    if engine.settings.origin("MLFLOW_IMAGE") == DEFAULT and loading.template(schema):
        return "current"
    done = engine.one_shot(MLFLOW, (PROGRAM, "known", schema))
    if done.code:
        raise TrackbedError(f"MLflow does not report its schema: {done.stderr.strip()[-300:]}", "`invoke up`")
    return done.stdout.strip()


def _objects(members: Iterator[Member], meter: Meter, whole: int, disk: disk_space.Watch) -> Iterator[Member]:
    count = size = 0
    for name, length, content in members:
        if not name.startswith("objects/"):
            continue
        disk.object(length)
        yield name.removeprefix("objects/"), length, cast("IO[bytes]", Counted(content, disk.took))
        disk.took(disk_space.OBJECT)
        count, size = count + 1, size + length
        meter.report(size, count, whole)


def renamed_lines(names: dict[str, str]) -> list[str]:
    """What is to be said of artifacts that the store could not keep under their names."""
    lines = [
        f"warning: renamed, because this store keeps no file beside a folder of its name: "
        f"{damage.words(old)} is now {name.rpartition('/artifacts/')[2]!r}"
        for name, old in itertools.islice(sorted(names.items()), damage.NAMED)
    ]
    return [*lines, f"warning: and {len(names) - len(lines)} more artifacts"] if len(names) > len(lines) else lines


def settings_of(rest: Restorable) -> dict[str, str]:
    """The settings in a backup that mean the same on another machine; none that this version would not take."""
    try:
        data = json.loads(salvage.small(rest, "settings.json") or b"{}")
        chosen = {key: str(value) for key, value in data.items() if key in PORTABLE}
    except (ValueError, AttributeError, RecursionError):
        return {}
    taken = {}
    for key, value in chosen.items():
        try:
            Settings.load({}, {"HOME": "/"}, Path("/nonexistent/.env"), {key: value})
            taken[key] = value
        except TrackbedError:
            continue
    return taken


def verify(source: Source, progress: ProgressReporter, skip_damaged: bool = False) -> Restorable:
    """Read every byte of a backup. Raises TrackbedError when anything is not as it should be.

    ``skip_damaged``: only when more is damaged than artifacts, settings or logins, which are left out then.
    """
    progress.step(f"verifying {source}")
    meter = Meter(progress, "verifying")
    return salvage.undamaged(source, meter.report) if skip_damaged else salvage.complete(source, meter.report)


def _database(
    project: Project,
    engine: Engine,
    new: dict[str, str],
    manifest: dict[str, Any],
    chunks: Iterator[IO[bytes]],
    disk: disk_space.Watch,
) -> list[str]:
    """Fill the new database with the rows of the dump; gives what was left out of it, because it is not MLflow's."""
    if (first := next(chunks, None)) is None:
        return []
    head = first.read(loading.TOC)
    name, revision = new["database"], manifest["schema"]
    if revision and (statements := loading.template(revision)):
        loading.fill(engine, name, statements)
    elif revision:
        done = beside(project, new).one_shot(MLFLOW, (PROGRAM, "make", revision), timeout=600)
        if done.code:
            lines = tuple(done.stderr.strip().splitlines()[-5:])
            raise TrackbedError(f"MLflow's schema {revision} could not be created", "please report it", lines)
    tables = loading.schema(engine, name)
    left = loading.foreign(engine, name, head)
    loading.load(engine, name, tables, itertools.chain([io.BytesIO(head), first], chunks), disk)
    database.check(engine, name, manifest["tables"], tables.read)
    return left


def copy(
    project: Project,
    engine: Engine,
    source: Source,
    rest: Restorable,
    progress: ProgressReporter,
    notice: Callable[[str], None],
    take_files: Callable[[Iterator[Member]], None] | None = None,
) -> dict[str, str]:
    """Restore the verified backup into a database and prefix of their own, prove it, migrate it; gives the names.

    ``take_files`` gets the members of the workspace, where the backup has one. The note of the change is on disk before
    anything is made. Raises TrackbedError; what is active stays as it is.
    """
    need(engine, POSTGRES, STORE)
    manifest = rest.manifest
    disk_space.check(
        engine, rest.objects, rest.object_bytes, disk_space.dump_bytes(manifest), disk_space.largest(manifest)
    )
    disk = disk_space.Watch(engine)
    verdict = known(engine, manifest["schema"])
    if verdict == "newer":
        raise TrackbedError(
            f"{source} holds the schema {manifest['schema']} of a newer MLflow ({manifest['mlflow']})",
            "update this clone (`git pull`, then `invoke up`), then restore",
        )
    new = journal.fresh()
    journal.open_change(project.state, engine.name, new)
    database.create(engine, new["database"])
    members = rest.members()
    first: list[Member] = []  # what comes after the dump: its content is still to be read

    dumped = rows_taken(progress, disk_space.dump_bytes(manifest))

    def chunks() -> Iterator[IO[bytes]]:
        for member in members:
            if member[0].startswith("database/"):
                yield cast("IO[bytes]", Counted(member[2], dumped))
            elif member[0].startswith("objects/") or member[0] == "SHA256SUMS" or is_of_workspace(member[0]):
                first.append(member)
                return

    if manifest["chunks"]:
        progress.step("database")
        for left in _database(project, engine, new, manifest, chunks(), disk):
            notice(f"warning: left out, because it is not MLflow's: {left}")
    progress.step("objects")
    objects, files = workspace.split(itertools.chain(first, members))
    _copy_objects(engine, new["prefix"], objects, rest, disk, progress, notice)
    if take_files and "workspace_files" in manifest:
        take_files(files)
    if verdict == "older":
        migrate(project, new, progress)
    return new


def _copy_objects(
    engine: Engine,
    prefix: str,
    members: Iterator[Member],
    rest: Restorable,
    disk: disk_space.Watch,
    progress: ProgressReporter,
    notice: Callable[[str], None],
) -> None:
    """The artifacts below a prefix of their own, proven. Raises TrackbedError where they are others."""
    content = _objects(members, Meter(progress, "objects"), rest.object_bytes, disk)
    store_objects(
        engine,
        prefix,
        content,
        lambda: (rest.objects_sum, rest.objects, rest.object_bytes),
        "archive",
        progress,
        notice,
    )


def store_objects(
    engine: Engine,
    prefix: str,
    content: Iterator[Member],
    expected: Callable[[], tuple[str, int, int]],
    origin: str,
    progress: ProgressReporter,
    notice: Callable[[str], None],
) -> None:
    """Write artifacts below a prefix of their own and prove them. Raises TrackbedError where they are others.

    They are proven by the checksums that the store gives back and lists; where it gives none, they are read back.
    ``expected``: the sum, the number and the bytes, known at the latest when all is written; ``origin``: a word for
    where they come from.
    """
    written = artifacts.write(engine, prefix, content)
    for line in renamed_lines(written.renamed):
        notice(line)
    text, count, whole = expected()
    stored = written.confirmed
    if stored is None:
        progress.step("reading the objects back")
        meter = Meter(progress, "reading back")
        stored, _ = artifacts.sums(
            engine, prefix, written.renamed, lambda size, count: meter.report(size, count, whole)
        )
    if (stored.text, stored.count) != (text, count):
        raise TrackbedError(
            f"the store has {stored.count} objects that are not those of the {origin} ({count}, {whole} bytes)",
            "nothing was changed; please report it",
        )


# what a database makes the server do by itself; the states of jobs: mlflow/entities/_job_status.py
CANCELED, UNFINISHED = 5, "(0, 1, 6)"
WAITING = f"SELECT count(*) FROM jobs WHERE status IN {UNFINISHED}"  # noqa: S608 (constants)
SCORING = "SELECT count(*) FROM online_scoring_configs WHERE sample_rate > 0"
CALLING = (
    "SELECT DISTINCT substr(url, 1, 200) FROM webhooks WHERE status = 'ACTIVE' AND deleted_timestamp IS NULL ORDER BY 1"
)
ASLEEP = (
    f"DELETE FROM job_locks; UPDATE jobs SET status = {CANCELED} WHERE status IN {UNFINISHED}; "  # noqa: S608 (constants)
    "UPDATE online_scoring_configs SET sample_rate = 0;"
)


def put_to_sleep(engine: Engine, name: str) -> list[str]:
    """Nothing in the restored database ``name`` acts by itself: whoever wrote the backup would have this server send
    people's later work somewhere. Gives what to tell.

    Jobs that had not ended are cancelled, automatic scoring is off. Webhooks stay, and are told.
    """
    with database.session(engine, name) as opened:
        unfinished, scored = (int(opened.ask(statement)[0]) for statement in (WAITING, SCORING))
        webhooks = opened.ask(CALLING)
    lines = []
    if unfinished or scored:
        loading.fill(engine, name, ASLEEP)
    if unfinished:
        lines.append(f"{unfinished} jobs of MLflow that had not ended were cancelled: start them again on its page")
    if scored:
        lines.append(f"automatic scoring is off for {scored} judges of the backup: turn it on again on MLflow's page")
    if webhooks:
        named = ", ".join(shown(address) for address in webhooks[: damage.NAMED])
        lines.append(
            f"the backup's webhooks send what happens to models to {named}: delete those that you do not know in MLflow"
        )
    return lines


def migrate(project: Project, active: dict[str, str], progress: ProgressReporter) -> None:
    """Bring a database that is not active up to this MLflow's schema."""
    progress.step("migrating the copy to this MLflow's schema")
    try:
        with beside(project, active).pipe(MLFLOW, (PROGRAM, "migrate", "--amounts"), fresh=True) as pipe:
            amounts.followed(pipe, progress)
    except TrackbedError as error:
        raise TrackbedError(
            "the migration of the copy failed; the active data were not touched", "please report it", error.details
        ) from None


def abandon(project: Project, engine: Engine, progress: ProgressReporter) -> None:
    """After a failed change: remove the copy, as far as that works now; the next `up` does the rest."""
    try:
        journal.recover(project.state, engine, progress)
    except TrackbedError as error:
        progress.step(f"what was begun is still there, `invoke up` removes it ({error.message})")
