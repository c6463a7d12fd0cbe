"""What every engine does alike, on what it knows of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from helpers import topics
from helpers.engines.base import Engine
from helpers.engines.host import Host
from helpers.errors import Interrupted, TrackbedError
from helpers.gpu import accelerator, node_types, wheels
from helpers.gpu.accelerator import Accelerator
from helpers.services import ServiceStatus, StartReport, State

AWS_CREDENTIALS = "[default]\naws_access_key_id = {S3_ACCESS_KEY}\naws_secret_access_key = {S3_SECRET_KEY}\n"


def unchanged(engine: Engine, applied: Mapping[str, Any]) -> tuple[ServiceStatus, ...]:
    """The services where all that the last `up` wrote down of itself is so still: what it was made from, and who runs;
    () where it is not."""
    if applied.get("hash") != engine.fingerprint():
        return ()
    statuses = engine.services()
    well = all(s.state in (State.READY, State.DONE) for s in statuses)
    return statuses if well and {s.name: s.identity for s in statuses} == applied.get("identities") else ()


def remarks(chosen: Accelerator, empty_data: str) -> tuple[str, ...]:
    """What is told before a start of the GPU, and of a data set that has nothing in it ("": of none)."""
    lines = [f"GPU: {chosen} ({chosen.reason})"] if chosen.kind != node_types.NONE else []
    if chosen.warning:
        lines += [f"warning: the notebook gets no GPU: {chosen.warning}", f"  {topics.reference(topics.GPU)}"]
    if empty_data:
        lines.append(f"warning: the data set {empty_data} is empty")
        lines.append("  -> `invoke data.add food11 --from=SOURCE` fills it")
    return tuple(lines)


def for_bundle(engine: Engine) -> Accelerator:
    """The GPUs that a bundle is made for: this machine's, or those that GPU names, which need not be here."""
    gpu, torch = engine.settings.gpu, engine.settings.torch
    if gpu.kind == node_types.AUTO:
        return engine.accelerator
    chosen = accelerator.named(gpu)
    return replace(chosen, torch=wheels.CPU) if torch == wheels.CPU else chosen


def data_folder(name: str, host: Host) -> str:
    """The data set that DATA_VOLUME names, where that is a folder of ``host``; else "". Raises TrackbedError."""
    if not name.startswith("/"):
        return ""
    if not host.is_folder(name):
        where = f" on {host.name}" if host.remote else ""
        raise TrackbedError(
            f"DATA_VOLUME={name}: there is no such folder{where}",
            "create it for `invoke data.add`, or unset DATA_VOLUME",
        )
    return name


def report(before: Mapping[str, str], after: Iterable[ServiceStatus]) -> StartReport:
    """What a start did: ``before`` has the identities of the services that were up."""
    return StartReport(tuple(s.name for s in after if before.get(s.name) != s.identity))


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C while services are started. Raises Interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted while starting; what was started stays",
            "`invoke up` goes on from there, `invoke down` stops it",
        ) from None


def other_major(made_by: str, reader: str, fix: str) -> TrackbedError:
    """The error for a database of another PostgreSQL major; ``reader``: what there is here, as in "... is 18"."""
    return TrackbedError(f"the database was made by PostgreSQL {made_by}, {reader}; it is not migrated silently", fix)


def psql(role: str, database: str) -> tuple[str, ...]:
    """The command that takes statements on its input and gives bare rows, their columns a space apart."""
    return ("psql", "-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "-U", role, "-d", database)
