"""Where artifacts lie in the source, and where they will lie: every location in the staging database is rewritten.

Ids of experiments that PostgreSQL's column cannot hold get new ones first: a file store's have 18 digits.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any
from urllib.parse import unquote, urlsplit

Version = tuple[str, str, int]  # workspace, model's name, number
Held = tuple[str, str]  # the folders that a version's source and its storage location name, "" none
LARGEST = 2**31 - 1  # PostgreSQL's integer
OWN = "mlflow-artifacts:/"
REGISTRY = "registry/"  # above the files of versions that lie with no run and no model
KEPT = ("models:/", "runs:/")  # lead to what has a location of its own
ORIGINAL = "trackbed.source_experiment_id"  # tag of an experiment whose id is another one now
PROMPT = ("dummy-source", "prompt-template")  # of prompts, which have no artifacts: mlflow/prompt/constants.py

# kind, id, experiment's id, location in the source, path below the file store's own folder, has artifacts for sure
FOUND = """
CREATE TABLE trackbed_locations (kind TEXT, id TEXT, experiment INTEGER, uri TEXT, place TEXT, target TEXT,
    inside TEXT, needed INTEGER);
INSERT INTO trackbed_locations SELECT 'run', run_uuid, experiment_id, artifact_uri, plain(artifact_uri),
    experiment_id || '/' || run_uuid || '/artifacts', old(experiment_id) || '/' || run_uuid || '/artifacts',
    EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = runs.run_uuid AND
        t.key IN ('mlflow.log-model.history', 'mlflow.loggedArtifacts'))
    FROM runs;
INSERT INTO trackbed_locations SELECT 'model', model_id, experiment_id, artifact_location, plain(artifact_location),
    experiment_id || '/models/' || model_id || '/artifacts',
    old(experiment_id) || '/models/' || model_id || '/artifacts', status = 2
    FROM logged_models;
INSERT INTO trackbed_locations SELECT 'trace', i.request_id, i.experiment_id, t.value, plain(t.value),
    i.experiment_id || '/traces/' || i.request_id || '/artifacts',
    old(i.experiment_id) || '/traces/' || i.request_id || '/artifacts', 0
    FROM trace_tags t JOIN trace_info i USING (request_id) WHERE t.key = 'mlflow.artifactLocation';
CREATE INDEX trackbed_places ON trackbed_locations (place);
CREATE TABLE IF NOT EXISTS trackbed_known (kind TEXT, id TEXT, PRIMARY KEY (kind, id));
"""
REWRITTEN = f"""
UPDATE experiments SET artifact_location = '{OWN}' || experiment_id;
UPDATE runs SET artifact_uri = '{OWN}' || experiment_id || '/' || run_uuid || '/artifacts';
UPDATE logged_models SET artifact_location = '{OWN}' || experiment_id || '/models/' || model_id || '/artifacts';
UPDATE trace_tags SET value = '{OWN}' || (SELECT target FROM trackbed_locations l WHERE l.kind = 'trace' AND
    l.id = request_id) WHERE key = 'mlflow.artifactLocation';
"""
VERSIONS = "SELECT rowid, workspace, name, version, source, storage_location FROM model_versions"
# rows whose artifacts would lie elsewhere than below their own id: no MLflow writes such
STRANGE = """
SELECT 'run', run_uuid, experiment_id FROM runs WHERE strange(run_uuid, experiment_id)
UNION ALL SELECT 'model', model_id, experiment_id FROM logged_models WHERE strange(model_id, experiment_id)
UNION ALL SELECT 'trace', request_id, experiment_id FROM trace_info WHERE strange(request_id, experiment_id)
UNION ALL SELECT 'version', name, version FROM model_versions WHERE strange('-', version) LIMIT 1
"""
LISTED = """
SELECT l.kind, l.id, CASE l.kind WHEN 'run' THEN r.name WHEN 'model' THEN m.name ELSE '' END, e.name, l.uri, l.place,
    l.target, l.inside, l.needed, EXISTS (SELECT 1 FROM trackbed_known k WHERE k.kind = l.kind AND k.id = l.id)
    FROM trackbed_locations l LEFT JOIN experiments e ON e.experiment_id = l.experiment
    LEFT JOIN runs r ON l.kind = 'run' AND r.run_uuid = l.id
    LEFT JOIN logged_models m ON l.kind = 'model' AND m.model_id = l.id ORDER BY l.experiment, l.kind, l.id
"""


@dataclass(frozen=True)
class Location:
    """A folder of artifacts: whose it is, where it is in the source, and its path in this project's space.

    ``place``: ``uri`` with a local one as a path; ``inside``: where a file store itself would keep it, below its
    folder; ``needed``: there are artifacts for sure; ``known``: the project has the run, model or trace already.
    """

    kind: str
    id: str
    name: str
    experiment: str
    uri: str
    place: str
    target: str
    inside: str
    needed: bool
    known: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plain(uri: str | None) -> str:
    """A location in the one way in which it is compared: a local one as a path, without a slash at its end."""
    text = uri or ""
    if text.startswith("file:"):
        text = unquote(urlsplit(text).path)
    return text.rstrip("/")


def _strange(identity: object, number: object) -> bool:
    """Whether an id is no single name of a folder, or a number is none."""
    plain_id = isinstance(identity, str) and identity not in ("", ".", "..") and not {"/", "\0"} & set(identity)
    return not plain_id or not isinstance(number, int | None)


def rewrite(
    connection: sqlite3.Connection, given: dict[int, int] | None = None, held: dict[Version, Held] | None = None
) -> list[str]:
    """Give every row its new location; `locations` lists both. Gives what to tell, in lines.

    ``given``: the new ids of experiments, where they are known; ``held``: where versions that the project has keep
    their files. Raises ValueError for an id that would lead to the artifacts of something else.
    """
    connection.create_function("strange", 2, _strange, deterministic=True)
    if found := connection.execute(STRANGE).fetchone():
        raise ValueError("{} {!r} of {!r} has an id that no MLflow gives".format(*found))
    numbers = {old: new for old, new in given.items() if old != new} if given is not None else _numbers(connection)
    back = {new: old for old, new in numbers.items()}
    connection.create_function("plain", 1, plain, deterministic=True)
    connection.create_function("old", 1, lambda number: back.get(number, number), deterministic=True)
    _renumber(connection, numbers)
    connection.executescript(FOUND)
    _move_versions(connection, held or {})
    connection.executescript(REWRITTEN)
    connection.commit()
    if not numbers or given is not None:
        return []
    return [f"experiments with a new id, because PostgreSQL cannot hold theirs: {len(numbers)} (tag {ORIGINAL})"]


def locations(connection: sqlite3.Connection) -> Iterator[Location]:
    for row in connection.execute(LISTED):
        kind, identity, name, experiment, uri, place, target, inside = (str(word or "") for word in row[:-2])
        yield Location(kind, identity, name, experiment, uri, place, target, inside, bool(row[-2]), bool(row[-1]))


def _numbers(connection: sqlite3.Connection) -> dict[int, int]:
    """New ids of experiments, by those that are too large."""
    taken = [row[0] for row in connection.execute("SELECT experiment_id FROM experiments ORDER BY 1")]
    following = max((one for one in taken if one <= LARGEST), default=0)
    return {old: following + place for place, old in enumerate((one for one in taken if one > LARGEST), 1)}


def _renumber(connection: sqlite3.Connection, numbers: dict[int, int]) -> None:
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        if "experiment_id" in (row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')):
            statement = f'UPDATE "{table}" SET experiment_id = ? WHERE experiment_id = ?'
            # in two steps, because a number may be an old and a new one
            connection.executemany(statement, [(-new - 1, old) for old, new in numbers.items()])
            connection.executemany(statement, [(new, -new - 1) for new in numbers.values()])
    statement = (
        "UPDATE entity_associations SET destination_id = ? WHERE destination_type = 'experiment' AND destination_id = ?"
    )
    connection.executemany(statement, [(f"-{new}", str(old)) for old, new in numbers.items()])
    connection.executemany(statement, [(str(new), f"-{new}") for new in numbers.values()])
    connection.executemany(
        "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)",
        [(ORIGINAL, str(old), new) for old, new in numbers.items()],
    )
    _renumber_prompts(connection, numbers)


def _renumber_prompts(connection: sqlite3.Connection, numbers: dict[int, int]) -> None:
    """A prompt names its experiments in a tag, as in ",1,2,"."""
    if not numbers:
        return
    tags = "SELECT rowid, value FROM registered_model_tags WHERE key = '_mlflow_experiment_ids'"
    for row, value in connection.execute(tags).fetchall():
        words = [str(numbers.get(int(word), word)) if word.isdecimal() else word for word in value.split(",")]
        connection.execute("UPDATE registered_model_tags SET value = ? WHERE rowid = ?", (",".join(words), row))


def _move_versions(connection: sqlite3.Connection, held: dict[Version, Held]) -> None:
    """A version's files lie with its run or model, or in a place of their own, which it keeps."""
    known = {row[0] for row in connection.execute("SELECT id FROM trackbed_known WHERE kind = 'version'")}
    taken = {target for both in held.values() for target in both}
    for row, workspace, name, number, *uris in connection.execute(VERSIONS).fetchall():
        version = (workspace, name, number)
        own = held.get(version, ("", "")) if f"{name} {number}" in known else ("", "")
        moved = [
            _moved(connection, version, uri, target, taken) if uri else uri
            for uri, target in zip(uris, own, strict=True)
        ]
        if moved != uris:
            connection.execute(
                "UPDATE model_versions SET source = ?, storage_location = ? WHERE rowid = ?", (*moved, row)
            )


def _moved(connection: sqlite3.Connection, version: Version, uri: str, own: str, taken: set[str]) -> str:
    if uri.startswith(KEPT) or uri in PROMPT:
        return uri
    place = plain(uri)
    upper = place
    while upper:
        known = connection.execute("SELECT target FROM trackbed_locations WHERE place = ?", (upper,)).fetchone()
        if known:
            return f"{OWN}{known[0]}{place[len(upper) :]}"
        upper = upper.rpartition("/")[0]
    target = own or _free_target(version, taken)
    connection.execute(
        "INSERT INTO trackbed_locations VALUES ('version', ?, NULL, ?, ?, ?, '', 1)",
        (f"{version[1]} {version[2]}", uri, place, target),
    )
    return OWN + target


def _free_target(version: Version, taken: set[str]) -> str:
    """A folder that no version has, also none whose model was renamed since."""
    _, name, number = version
    for other in count(1):
        key = name if other == 1 else f"{name}\0{other}"
        target = f"{REGISTRY}{hashlib.sha256(key.encode()).hexdigest()[:32]}/{number}"
        if target not in taken:
            taken.add(target)
            return target
    raise AssertionError("numbers do not end")
