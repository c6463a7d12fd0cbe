"""`invoke backup`: one consistent archive while the system runs. docs/backup.md argues why it is consistent."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from helpers.backups import archive, database, objects
from helpers.engines.base import POSTGRES, STORE, Engine, Sink, State
from helpers.errors import TrackbedError
from helpers.state import make_folder
from helpers.system import System

PORTABLE = ("CULL_IDLE", "MLFLOW_WORKERS", "READY_TIMEOUT", "TORCH")  # settings that mean the same elsewhere
EVERY = 3.0  # seconds between two words of progress


class Progress:
    """Tells how far it is, now and then."""

    def __init__(self, sink: Sink, what: str) -> None:
        self._sink, self._what, self._at, self._begun = sink, what, time.monotonic(), time.monotonic()

    def say(self, size: int, count: int, whole: int = 0) -> None:
        now = time.monotonic()
        if now - self._at < EVERY:
            return
        self._at = now
        share = f"{100 * size / whole:.0f} %, " if whole else ""
        self._sink.part(self._what, "running", f"{share}{count} objects, {size / 2**20:.0f} MiB, "
                        f"{size / 2**20 / (now - self._begun):.0f} MiB/s")


def name(project: str) -> str:
    return f"trackbed-{project}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"


def target(system: System, to: str) -> Path:
    """The file to write: ``to``, or a name with the time in the folder ``to`` ("": backups in the state folder)."""
    settings = system.settings
    if to.startswith("s3://"):
        raise TrackbedError("--to=s3://... is not there yet", "back up into a file, then copy that")
    path = Path(to).expanduser().absolute() if to else settings.folder / "backups"
    if not to:
        make_folder(path, private=True)
    if to.endswith("/") or path.is_dir():
        make_folder(path, private=True)
        return path / name(settings.project)
    if path.exists():
        raise TrackbedError(f"{path} is there already", "choose another name, or a folder")
    if not path.parent.is_dir():
        raise TrackbedError(f"{path.parent}: there is no such folder", f"mkdir -p {path.parent}")
    return path


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
        raise TrackbedError(f"{path}: {error.strerror or error}", "free the disk or choose another place with --to",
                            ) from None
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def need(engine: Engine, *parts: str) -> None:
    """The parts that are there have to run. Raises TrackbedError with the next step."""
    for status in engine.parts():
        if status.name in parts and status.state not in (State.READY, State.RUNNING):
            raise TrackbedError(f"{status.name} is {status.state}, it has to run for this", "`invoke up` first")


def make(system: System, engine: Engine, path: Path, sink: Sink, with_secrets: bool = False) -> dict[str, Any]:
    """Write an archive of what is live to ``path``; gives its manifest. The project's lock is the caller's to hold."""
    need(engine, POSTGRES, STORE)
    settings, live = system.settings, system.state.live
    about = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "project": settings.project,
             "engine": engine.name, "machine": platform.machine()}
    begun = time.monotonic()
    versions = dict(engine.versions())
    with replacing(path) as stream:
        writer = archive.Writer(stream, about)
        kept = {key: value for key, value in system.state.remembered.items() if key in PORTABLE}
        writer.small("settings.json", json.dumps(kept, sort_keys=True).encode())
        if with_secrets:
            secrets = system.credentials()
            writer.small("secrets.json", json.dumps({key: secrets[key] for key in secrets.names}).encode())
        # the database first: every artifact that a row of this moment points to was stored before it
        sink.step("database")
        with database.dump(engine, live["database"]) as (found, dump):
            size = writer.database(dump)
        sink.step("objects")
        progress = Progress(sink, "objects")
        for key, length, content in objects.read(engine):
            writer.object(key, length, content)
            progress.say(writer.object_bytes, writer.objects)
        manifest = writer.finish({
            "schema": found.schema, "tables": found.tables, "dump_bytes": size, "with_secrets": with_secrets,
            "mlflow": versions.get("mlflow") or versions.get("image mlflow", ""),
            "seconds": round(time.monotonic() - begun, 1), "versions": versions})
    return manifest
