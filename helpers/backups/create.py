"""`invoke backup`: one consistent archive while the project runs. docs/backup.md argues why it is consistent."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from helpers.backups import (
    archive,
    damage,
    encrypted,
    last_seen,
    locations,
    repository,
    repository_writer,
    scrub,
    workspace,
)
from helpers.backups.encrypted import Encrypted
from helpers.backups.meters import Counted, Meter, rows_taken
from helpers.backups.repository import Snapshot
from helpers.backups.storage import BlobStore
from helpers.data import artifacts, database
from helpers.errors import SettingError, TrackbedError
from helpers.plurals import counted
from helpers.project import users
from helpers.project.backup_runs import Good
from helpers.services import POSTGRES, STORE, Notice, ProgressReporter, State
from helpers.sizes import mib

if TYPE_CHECKING:  # in a pod of a cluster only what tests/unit/test_code_bundle.py names can be imported
    from helpers.engines.base import Engine
    from helpers.project.project import Project
    from helpers.settings import Settings

# settings that mean the same elsewhere; none that ends kernels or lets a start fail: an archive may be anybody's
PORTABLE = ("MLFLOW_WORKERS", "TORCH")


class Writer(Protocol):
    """What an archive and a repository are written with alike."""

    def small(self, name: str, content: bytes) -> None: ...

    def database(self, dump: IO[bytes]) -> int: ...


def _clean_up(settings: Settings) -> None:
    """Remove what killed backups left in the state folder. Under the project's lock: no other one is being written."""
    for part in (settings.folder / "backups").glob(".*.tar.part"):
        part.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A 0600 file that gets its name only when it is whole and on the disk."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", 2**20) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TrackbedError(
            f"{path}: {error.strerror or error}",
            "free the disk or choose another destination with --to",
        ) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def need(engine: Engine, *services: str) -> None:
    """The services that are there have to run. Raises TrackbedError with the next step."""
    for service in engine.services():
        if service.name in services and service.state not in (State.READY, State.RUNNING):
            raise TrackbedError(f"{service.name} is {service.state}, it has to run for this", "`invoke up` first")


def make(
    project: Project,
    engine: Engine,
    path: Path,
    progress: ProgressReporter,
    with_secrets: bool = False,
    with_workspace: bool = False,
) -> tuple[dict[str, Any], workspace.Kept]:
    """Write an archive of what is active to ``path``; gives its manifest. The caller holds the project's lock."""
    need(engine, POSTGRES, STORE)
    _clean_up(project.settings)
    begun, about = time.monotonic(), _about(project, engine) | workspace.about(engine, with_workspace)
    with replacing(path) as stream:
        writer = archive.Writer(stream, about)
        facts = _rows(project, engine, writer, progress, with_secrets)
        progress.step("objects")
        meter = Meter(progress, "objects")
        _, whole = artifacts.total(engine)
        for key, length, content in artifacts.read_all(engine, progress):
            writer.object(key, length, content)
            meter.report(writer.object_bytes, writer.objects, whole)
        kept = workspace.back_up(engine, writer, progress, room=shutil.disk_usage(path.parent).free - archive.FREE)
        return writer.finish(facts | _since(begun) | kept.facts), kept


@dataclass(frozen=True)
class Added:
    """A backup that was added to a repository.

    ``reread``: the share of earlier pieces that was read again; ``rewritten``: how many damaged or missing pieces were
    stored again; ``concerned``: the earlier backups that need a piece which is still damaged, with files of theirs.
    """

    name: str
    manifest: dict[str, Any]
    reread: scrub.ScrubResult
    rewritten: int
    concerned: dict[str, list[str]]
    remarks: tuple[str, ...]
    kept: workspace.Kept = field(default_factory=workspace.Kept)


def add(
    project: Project,
    engine: Engine,
    store: BlobStore,
    progress: ProgressReporter,
    with_secrets: bool = False,
    lost: Iterable[str] = (),
    with_workspace: bool = False,
    files_until: float = math.inf,
) -> Added:
    """The same as one more backup of a repository, which reads and stores only what is new.

    A share of what is there is read again beside the database; that, and the pieces in ``lost``, is stored again where
    it is damaged and the project still has it. ``files_until``: when the workspace is given up, in seconds since the
    epoch.
    """
    need(engine, POSTGRES, STORE)
    progress.step("reading a share of the earlier pieces again")
    try:
        with (
            scrub.share_beside(store) as share,
            repository_writer.Writer(
                store,
                project.settings.project,
                {**_about(project, engine), "project_id": identity(project), **workspace.about(engine, with_workspace)},
                _origin(project, engine),
                lost,
                share.lost,
            ) as writer,
        ):
            name, manifest, kept = _add(project, engine, writer, progress, with_secrets, files_until)
            left = writer.lost - writer.rewritten
            scrub.save_position(store, share.result, left)
            return Added(
                name,
                manifest,
                share.result,
                len(writer.rewritten) + share.copied,
                _affected(store, left) if left else {},
                tuple(writer.remarks),
                kept,
            )
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrackbedError(
            f"{tempfile.gettempdir()}: the list of objects cannot be stored there: {error}",
            "free some disk there, or name another folder with TMPDIR",
        ) from None


def _affected(store: BlobStore, wrong: set[str]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for name, entries in damage.affected(store, repository.names(store), wrong).items():
        try:
            if named := [damage.words(entry.name) for entry in itertools.islice(entries, damage.NAMED)]:
                result[name] = named
        except TrackbedError as error:
            result[name] = [error.message]
    return result


def _add(
    project: Project,
    engine: Engine,
    writer: repository_writer.Writer,
    progress: ProgressReporter,
    with_secrets: bool,
    files_until: float,
) -> tuple[str, dict[str, Any], workspace.Kept]:
    begun = time.monotonic()
    with artifacts.offer(engine) as objects:
        facts = _rows(project, engine, writer, progress, with_secrets, objects.begin)
        progress.step("objects")
        meter = Meter(progress, "objects")
        expected = writer.listed(objects.list_all(progress))
        if writer.pending:
            for key, length, content in objects.read(expected):
                writer.object(key, length, content)
                meter.report(writer.read_bytes, writer.objects, writer.pending_bytes)
        objects.close()
        kept = workspace.back_up(engine, writer, progress, until=files_until)
        name, manifest = writer.finish(facts | _since(begun) | kept.facts)
    return name, manifest, kept


def _about(project: Project, engine: Engine) -> dict[str, Any]:
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "project": project.settings.project,
        "engine": engine.name,
        "machine": platform.machine(),
    }


def _origin(project: Project, engine: Engine) -> str:
    """Names the store that the objects are in, and the prefix."""
    settings = engine.settings
    identity = (
        project.state.instance,
        engine.name,
        engine.object_store,
        settings.s3_endpoint,
        settings.s3_bucket,
        project.state.active["prefix"],
    )
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()


def identity(project: Project) -> str:
    """Names this project among others of its name, and tells nothing of it."""
    return hashlib.sha256(f"backup {project.state.instance}".encode()).hexdigest()[:32]


def _rows(
    project: Project,
    engine: Engine,
    writer: Writer,
    progress: ProgressReporter,
    with_secrets: bool,
    at_moment: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Everything but the objects; gives what the manifest says of it. ``at_moment``: called as soon as the moment of
    the dump is fixed, before that is read."""
    kept = {key: value for key, value in project.state.remembered.items() if key in PORTABLE}
    writer.small("settings.json", json.dumps(kept, sort_keys=True).encode())
    if logins := users.load(project.settings):
        writer.small("users.json", users.exported(logins))
    if with_secrets:
        secrets = project.credentials()
        writer.small("secrets.json", json.dumps({key: secrets[key] for key in secrets.names}).encode())
    # the database first: every artifact that a row of this moment points to was stored before it
    progress.step("database")
    with database.dump(engine, project.state.active["database"]) as dump:
        at_moment()
        versions = dict(engine.versions())  # while pg_dump begins
        size = writer.database(cast("IO[bytes]", Counted(dump.stream, rows_taken(progress))))
        contents = dump.contents()
    return {
        "schema": contents.schema,
        "tables": contents.tables,
        "dump_bytes": size,
        "moment": list(contents.moment),
        "with_secrets": with_secrets,
        "mlflow": versions.get("mlflow") or versions.get("image mlflow", ""),
        "versions": versions,
    }


def _since(begun: float) -> dict[str, Any]:
    return {"seconds": round(time.monotonic() - begun, 1)}


def words(manifest: dict[str, Any]) -> str:
    """An archive in one line."""
    rows = {name: int(count) for name, (count, _) in manifest["tables"].items()}
    files = f"{counted(manifest['workspace_files'], 'file')} of the workspace " if "workspace_files" in manifest else ""
    files += f"({mib(manifest['workspace_bytes'])}), " if files else ""
    return (
        f"{counted(rows.get('runs', 0), 'run')}, {counted(rows.get('metrics', 0), 'metric')}, "
        f"{counted(manifest['objects'], 'object')} "
        f"({mib(manifest['object_bytes'])}), {files}schema {manifest['schema'] or 'none'}, "
        f"made {manifest['made']}"
    )


def stored(manifest: dict[str, Any]) -> str:
    """What a backup into a repository had to do; "" for an archive."""
    if "new_pieces" not in manifest:
        return ""
    read = manifest["objects"] - manifest["unchanged_objects"]
    return (
        f"{counted(manifest['unchanged_objects'], 'object')} unchanged since the last backup, {read} read; "
        f"{mib(manifest['new_bytes'])} new, in {counted(manifest['new_pieces'], 'piece')}"
    )


@dataclass(frozen=True)
class Health:
    """What a backup says of the workspace and of the repository it went into: lines, and whether earlier backups are
    damaged for good; ``gone``: what this machine made and the place has no more; ``encrypted``: whether nobody reads it
    without a passphrase; ``lacks``: why it lacks files of the notebook."""

    lines: tuple[str, ...] = ()
    damaged: bool = False
    gone: str = ""
    encrypted: bool = False
    lacks: str = ""

    def problem(self, place: str) -> str:
        """What is wrong with a backup into ``place`` that is whole otherwise; "" for nothing."""
        files = [f"it lacks files of {self.lacks}"] if self.lacks else []
        earlier = f"earlier backups are damaged; `invoke backup.verify {place}` names them"
        return "; ".join([*files, earlier] if self.damaged else files)

    @property
    def bad(self) -> bool:
        return self.damaged or bool(self.lacks)


def health(store: BlobStore, added: Added) -> Health:
    lines = [f"an earlier backup is damaged: {remark}" for remark in added.remarks]
    if added.reread.count:
        lines.append(
            f"read again of earlier backups: {counted(added.reread.count, 'piece')} "
            f"({mib(added.reread.size)}), {len(added.reread.wrong) or 'none'} damaged"
        )
    if added.rewritten:
        lines.append(f"stored again: {counted(added.rewritten, 'damaged or missing piece')}")
    for name, files in added.concerned.items():
        lines += [
            f"{name} is damaged, and the running project does not have this any more:",
            *(f"    {file}" for file in files),
        ]
    damaged = bool(added.concerned or added.remarks)
    if damaged:
        lines.append(
            f"the new backup is whole; `invoke backup.verify {store}` lists all damage in the earlier ones. "
            "Deleting a file below backups/ forgets that backup"
        )
    return Health((*lines, *added.kept.lines), damaged, lacks=added.kept.problem)


def create(
    project: Project,
    to: str,
    with_secrets: bool,
    progress: ProgressReporter,
    notice: Notice,
    patience: float = 600,
    files_until: float = math.inf,
    done: Callable[[Engine], object] = lambda engine: None,
) -> tuple[str, dict[str, Any], Health]:
    """Back up the running project into a file or a repository; gives where, as `restore` takes it, the manifest, and
    what is to be said of the repository. ``patience``: seconds to wait for another task of the project;
    ``files_until``: when a repository's backup gives the workspace up, in seconds since the epoch; ``done``: given the
    engine once the backup is remembered."""
    from helpers import lifecycle, status  # late: a scheduled backup in a cluster has neither

    files, folder = project.settings.backup_workspace, project.settings.folder
    # with a passphrase a bucket is encrypted, or an error
    if with_secrets and to.startswith("s3:") and not project.settings.backup_passphrase:
        raise SettingError(
            "--with-secrets: secrets are not put into a bucket in plain text; back them up into a file, or encrypt the "
            "bucket's backups with BACKUP_PASSPHRASE."
        )
    goal = locations.target(project.settings, to)
    with lifecycle.changing(project, notice, patience):
        engine = status.running(project)
        if isinstance(goal, Path):
            manifest, kept = make(project, engine, goal, progress, with_secrets, files)
            good(str(goal), manifest).save(folder)
            done(engine)
            return str(goal), manifest, Health((*_plain_file(project.settings), *kept.lines), lacks=kept.problem)
        gone, first = last_seen.missing(folder, goal), encrypted.lines(goal)
        added = add(project, engine, goal, progress, with_secrets, with_workspace=files, files_until=files_until)
        last_seen.remember(folder, goal, added.name)
        state = health(goal, added)
        lines = (*first, *state.lines, *([f"warning: {gone}"] if gone else []))
        backup = str(Snapshot(goal, added.name))
        good(backup, added.manifest).save(folder)
        done(engine)
        return backup, added.manifest, Health(lines, state.damaged, gone, isinstance(goal, Encrypted), state.lacks)


def good(backup: str, manifest: dict[str, Any]) -> Good:
    """One that has just ended."""
    return Good(time.time(), backup, manifest["object_bytes"] + manifest["dump_bytes"])


def _plain_file(settings: Settings) -> list[str]:
    if not settings.backup_passphrase:
        return []
    return ["the file is not encrypted: BACKUP_PASSPHRASE encrypts backups in a folder (--to=FOLDER/) or in a bucket"]
