"""What was deleted in MLflow, removed for good: its rows, and then every file that no row leads to any more.

MLflow's own gc leaves the files of all models of a deleted run or experiment, and those of deleted traces. It removes
the artifacts that a registered model version still needs.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any
from urllib.parse import urlsplit

from trackbed_mlflow import amounts, durability
from trackbed_mlflow.errors import USAGE, Stop, required, say
from trackbed_mlflow.folder_objects import FolderObjects
from trackbed_mlflow.object_store import ObjectStore, storage
from trackbed_mlflow.schema import find_migrations
from trackbed_mlflow.write_journal import Journal

# where MLflow puts the files of a run, model or trace, below the location of its experiment
FOLDER = re.compile(r"(?P<path>(?:[^/]+/)*?(?:models/|traces/)?(?P<id>(?:m-|tr-)?[0-9a-f]{32}))/artifacts/")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BATCH = 1000  # names in one question to the database

EXPERIMENTS = (
    "SELECT CAST(experiment_id AS text), artifact_location, lifecycle_stage = 'deleted' AND "
    "last_update_time <= :before FROM experiments"
)
RUNS = (
    "SELECT run_uuid, CAST(experiment_id AS text), artifact_uri, lifecycle_stage = 'deleted' AND deleted_time <= "
    ":before FROM runs WHERE lifecycle_stage = 'deleted' OR CAST(experiment_id AS text) = ANY(:experiments)"
)
MODELS = (
    "SELECT model_id, CAST(experiment_id AS text), artifact_location, lifecycle_stage = 'deleted' AND "
    "last_updated_timestamp_ms <= :before, source_run_id FROM logged_models WHERE lifecycle_stage = 'deleted' OR "
    "CAST(experiment_id AS text) = ANY(:experiments) OR source_run_id = ANY(:runs)"
)
VERSIONS = "SELECT source, storage_location FROM model_versions WHERE coalesce(current_stage, '') <> 'Deleted_Internal'"
USED = (
    "SELECT DISTINCT i.destination_id FROM inputs i JOIN runs r ON r.run_uuid = i.source_id WHERE "
    "i.destination_type IN ('MODEL_INPUT', 'MODEL_OUTPUT') AND i.destination_id = ANY(:models) AND "
    "NOT i.source_id = ANY(:runs)"
)
# locations that do not end as MLflow makes them
ODD = (
    "SELECT artifact_uri FROM runs WHERE NOT artifact_uri LIKE '%/' || run_uuid || '/artifacts'",
    "SELECT artifact_location FROM logged_models WHERE NOT artifact_location LIKE '%/models/' || model_id || "
    "'/artifacts'",
    "SELECT value FROM trace_tags WHERE key IN ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation') AND "
    "NOT value LIKE '%/traces/' || request_id || '/artifacts'",
)
ALIVE = (
    "SELECT run_uuid, '' FROM runs WHERE run_uuid = ANY(:ids)",
    "SELECT model_id, '' FROM logged_models WHERE model_id = ANY(:ids)",
    "SELECT request_id, CAST(experiment_id AS text) FROM trace_info WHERE request_id = ANY(:ids)",
)
# of runs and experiments that are gone, which MLflow leaves; a trace may be linked before it is there
LINKS = (
    "DELETE FROM inputs WHERE (destination_type = 'RUN' AND NOT EXISTS (SELECT 1 FROM runs WHERE run_uuid = "
    "destination_id)) OR (source_type IN ('RUN_INPUT', 'RUN_OUTPUT') AND NOT EXISTS (SELECT 1 FROM runs WHERE run_uuid "
    "= source_id))",
    "DELETE FROM input_tags t WHERE NOT EXISTS (SELECT 1 FROM inputs i WHERE i.input_uuid = t.input_uuid)",
    "DELETE FROM entity_associations WHERE (destination_type = 'run' AND NOT EXISTS (SELECT 1 FROM runs WHERE run_uuid "
    "= destination_id)) OR (destination_type = 'experiment' AND NOT EXISTS (SELECT 1 FROM experiments WHERE "
    "CAST(experiment_id AS text) = destination_id))",
)


def seconds(age: str) -> int:
    if not re.fullmatch(r"(\d+[dhms])+", age):
        raise Stop(USAGE, f"{age} is no age; as in 30d or 12h")
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([dhms])", age))


def path_of(uri: str | None) -> str:
    """The path of a location in this project's own space, "" for another."""
    parts = urlsplit(uri or "")
    return parts.path.strip("/") if parts.scheme == "mlflow-artifacts" and not parts.netloc else ""


def above(path: str) -> list[str]:
    """The path and every folder above it."""
    return list(accumulate(path.split("/"), lambda upper, name: f"{upper}/{name}")) if path else []


@dataclass
class Usage:
    """Files of one run, model or trace, or of one experiment: how many, bytes, time of the newest."""

    objects: int = 0
    size: int = 0
    newest: float = 0.0
    recent: int = 0

    def add(self, size: int, changed: float, now: float = 0.0) -> None:
        self.objects, self.size, self.newest = self.objects + 1, self.size + size, max(self.newest, changed)
        self.recent += size if changed > now - 7 * 86400 else 0


@dataclass
class Listing:
    """What the store holds, by the folder of each run, model and trace, and by top folder."""

    folders: dict[str, Usage] = field(default_factory=dict)
    tops: dict[str, Usage] = field(default_factory=dict)

    @classmethod
    def of(cls, store: ObjectStore, now: float) -> Listing:
        result = cls()
        for name, size, changed in amounts.counted(store.listing(), "objects listed"):
            result.tops.setdefault(name.partition("/")[0], Usage()).add(size, changed, now)
            if match := FOLDER.match(name):
                result.folders.setdefault(match["path"], Usage()).add(size, changed)
        return result


@dataclass
class Plan:
    """What goes: experiments, runs and models (by id, with their experiment's), and folders of the store; how many runs
    and models stay because something needs them."""

    experiments: set[str] = field(default_factory=set)
    runs: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    folders: dict[str, Usage] = field(default_factory=dict)
    protected: int = 0

    def report(self) -> dict[str, Any]:
        rows: dict[str, list[int]] = {}
        for column, ids in enumerate((self.runs, self.models)):
            for experiment in ids.values():
                rows.setdefault(experiment, [0, 0, 0, 0])[column] += 1
        for experiment in self.experiments:
            rows.setdefault(experiment, [0, 0, 0, 0])
        for path, held in self.folders.items():
            row = rows.setdefault(path.partition("/")[0], [0, 0, 0, 0])
            row[2:] = row[2] + held.objects, row[3] + held.size
        return {"rows": rows, "experiments": len(self.experiments), "kept": self.protected}


class Needed:
    """What registered model versions need, and locations that are not where MLflow puts them."""

    def __init__(self, connection: Any) -> None:
        self.ids: set[str] = set()
        self.paths: set[str] = set()  # everything below one of these
        self._above: set[str] = set()  # and everything that one of these is below
        for uri in (uri for row in _ask(connection, VERSIONS) for uri in row if uri):
            self._version(uri)
        for statement in ODD:
            for (uri,) in _ask(connection, statement):
                self._path(path_of(uri))

    def _version(self, uri: str) -> None:
        if uri.startswith(("models:/", "runs:/")):
            self.ids.add(uri.partition(":")[2].strip("/").partition("/")[0])
            return
        self._path(path := path_of(uri))
        if match := FOLDER.match(f"{path}/"):
            self.ids.add(match["id"])

    def _path(self, path: str) -> None:
        if path:
            self.paths.add(path)
            self.location(path)

    def location(self, path: str) -> None:
        """An experiment's: it may lie in a folder that looks like a run's."""
        self._above.update(above(path))

    def holds(self, path: str) -> bool:
        return path in self._above or not self.paths.isdisjoint(above(path))


def _ask(connection: Any, statement: str, **words: Any) -> Iterator[Any]:
    import sqlalchemy

    yield from connection.execute(sqlalchemy.text(statement), words)


def plan(connection: Any, listing: Listing, before: float) -> Plan:
    """What was deleted before that time (Unix seconds). The listing has to be older than the connection's look at the
    database: a row is there before its files, so that files without one are of something that is gone."""
    result, needed, milliseconds = Plan(), Needed(connection), int(before * 1000)
    doomed: dict[str, str] = {}
    for identity, location, deleted in _ask(connection, EXPERIMENTS, before=milliseconds):
        if deleted:
            doomed[identity] = path_of(location)
        else:
            needed.location(path_of(location))
    result.experiments.update(doomed)
    for run, experiment, uri, old in _ask(connection, RUNS, before=milliseconds, experiments=list(doomed)):
        if old and run not in needed.ids and not needed.holds(path_of(uri)):
            result.runs[run] = experiment
        else:
            result.protected += bool(old)
            result.experiments.discard(experiment)  # it has a run that stays
    _choose_models(connection, result, needed, milliseconds)
    for identity, path in doomed.items():
        if identity not in result.experiments:
            needed.location(path)
    _choose_folders(connection, listing, result, needed, before)
    for identity, path in doomed.items():
        if identity in result.experiments and path in listing.tops and not needed.holds(path):
            result.folders = {inner: held for inner, held in result.folders.items() if inner.partition("/")[0] != path}
            result.folders[path] = listing.tops[path]  # with what lies beside its runs and models
    return result


def _choose_models(connection: Any, found: Plan, needed: Needed, before: int) -> None:
    """Models that were deleted themselves, and those of runs and experiments that go: but not what another run uses."""
    doomed = set(found.experiments)
    models = list(_ask(connection, MODELS, before=before, experiments=list(doomed), runs=list(found.runs)))
    used = {row[0] for row in _ask(connection, USED, models=[row[0] for row in models], runs=list(found.runs))}
    for model, experiment, uri, old, run in models:
        if not (old or run in found.runs or experiment in doomed):
            continue
        if (model in used and not old) or model in needed.ids or needed.holds(path_of(uri)):
            found.protected += 1
            found.experiments.discard(experiment)
        else:
            found.models[model] = experiment


def _choose_folders(connection: Any, listing: Listing, found: Plan, needed: Needed, before: float) -> None:
    """Those of what goes; and those that nothing in the database leads to, as an earlier gc left them."""
    paths = amounts.counted(listing.folders, "folders looked at", len(listing.folders))
    while batch := list(islice(paths, BATCH)):
        ids = {path: path.rpartition("/")[2] for path in batch}
        going, alive = set[str](), set[str]()
        for statement in ALIVE:
            for identity, experiment in _ask(connection, statement, ids=list(ids.values())):
                gone = identity in found.runs or identity in found.models or experiment in found.experiments
                (going if gone else alive).add(identity)
        for path, identity in ids.items():
            held = listing.folders[path]
            if identity in alive or identity in needed.ids or needed.holds(path):
                continue
            if identity in going or held.newest <= before:
                found.folders[path] = held


def _remove_rows(store: Any, found: Plan) -> None:
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]

    going = [
        *((identity, store._hard_delete_logged_model) for identity in found.models),
        *((identity, store._hard_delete_run) for identity in found.runs),
        *((identity, store._hard_delete_experiment) for identity in found.experiments),
    ]
    for identity, remove in amounts.counted(going, "runs, models and experiments removed", len(going)):
        try:
            remove(identity)
        except MlflowException as error:  # gone meanwhile, or brought back
            say(f"{identity} stays: {error.message}")


def _remove_links(connection: Any) -> None:
    import sqlalchemy

    for statement in LINKS:
        connection.execute(sqlalchemy.text(statement))
    connection.commit()


def _remove_folders(environment: Mapping[str, str], store: ObjectStore, paths: Collection[str]) -> None:
    address, token = environment.get("TRACKBED_STORE_SYNC"), durability.read_token(environment)
    for path in amounts.counted(paths, "folders of artifacts removed", len(paths)):
        try:
            if isinstance(store, FolderObjects):
                FolderObjects(store.folder / path).drop()
                Journal(store.folder.parent).note(str(store.folder / path), False)
                continue
            store.drop(path)
            if address:
                durability.ask(address, bucket=store.bucket, removed=f"{store.root}{path}", token=token)
        except OSError as error:
            say(f"{path}: {error}")  # what stays is found again the next time


def _connection(environment: Mapping[str, str]) -> Any:
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    uri = required(environment, "MLFLOW_BACKEND_STORE_URI")
    return sqlalchemy.create_engine(uri, poolclass=NullPool).connect()


def collect(environment: Mapping[str, str], age: str, show: bool) -> dict[str, Any]:
    """Remove what was deleted longer ago than ``age``; ``show``: only tell. Gives what a plan reports."""
    now = time.time()
    before, store = now - seconds(age), storage(environment, "")
    listing = Listing.of(store, now)
    with _connection(environment) as connection:
        result = plan(connection, listing, before)
    if not show:
        if result.models or result.runs or result.experiments:
            from mlflow.store.tracking.sqlalchemy_store import (  # type: ignore[import-not-found]
                SqlAlchemyStore,
            )

            find_migrations()
            _remove_rows(SqlAlchemyStore(environment["MLFLOW_BACKEND_STORE_URI"], "mlflow-artifacts:/"), result)
            with _connection(environment) as connection:
                _remove_links(connection)
        _remove_folders(environment, store, result.folders)
    return result.report()


def usage(environment: Mapping[str, str]) -> dict[str, list[int]]:
    """Objects, bytes and bytes of the last 7 days per top folder, which is an experiment's id; and how many bytes of
    them are of what was deleted."""
    now, store = time.time(), storage(environment, "")
    listing = Listing.of(store, now)
    with _connection(environment) as connection:
        rows = plan(connection, listing, now).report()["rows"]
    return {
        top: [held.objects, held.size, held.recent, rows.get(top, [0, 0, 0, 0])[3]]
        for top, held in listing.tops.items()
    }


def run(command: str, rest: list[str]) -> None:
    print(json.dumps(usage(os.environ) if command == "usage" else collect(os.environ, rest[0], rest[1:] == ["--show"])))
