"""An import beside other data (trackbed_mlflow/imports/beside.py): names, numbers, and what is recognised."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from trackbed_mlflow.imports import beside, locations

TABLES = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT, workspace TEXT DEFAULT 'default',
    creation_time INTEGER, lifecycle_stage TEXT DEFAULT 'active', artifact_location TEXT, UNIQUE (workspace, name));
CREATE TABLE experiment_tags (key TEXT, value TEXT, experiment_id INTEGER, PRIMARY KEY (key, experiment_id));
CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, name TEXT, artifact_uri TEXT, experiment_id INTEGER);
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);
CREATE TABLE logged_models (model_id TEXT PRIMARY KEY, name TEXT, artifact_location TEXT, experiment_id INTEGER,
    status INTEGER);
CREATE TABLE trace_info (request_id TEXT PRIMARY KEY, experiment_id INTEGER);
CREATE TABLE trace_tags (key TEXT, value TEXT, request_id TEXT);
CREATE TABLE registered_models (name TEXT, workspace TEXT DEFAULT 'default', creation_time INTEGER,
    PRIMARY KEY (workspace, name));
CREATE TABLE registered_model_tags (name TEXT, key TEXT, value TEXT, workspace TEXT DEFAULT 'default');
CREATE TABLE registered_model_aliases (name TEXT, alias TEXT, version INTEGER, workspace TEXT DEFAULT 'default',
    PRIMARY KEY (workspace, name, alias));
CREATE TABLE model_versions (name TEXT, version INTEGER, source TEXT, storage_location TEXT, creation_time INTEGER,
    run_id TEXT, workspace TEXT DEFAULT 'default', PRIMARY KEY (workspace, name, version));
CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT, workspace TEXT DEFAULT 'default');
CREATE TABLE entity_associations (destination_type TEXT, destination_id TEXT);
CREATE TABLE datasets (dataset_uuid TEXT, experiment_id INTEGER, name TEXT, digest TEXT,
    PRIMARY KEY (experiment_id, name, digest));
CREATE TABLE inputs (input_uuid TEXT, source_type TEXT, source_id TEXT, destination_type TEXT, destination_id TEXT);
CREATE TABLE input_tags (input_uuid TEXT, name TEXT, value TEXT);
CREATE TABLE logged_model_metrics (model_id TEXT, dataset_uuid TEXT);
CREATE TABLE scorers (scorer_id TEXT PRIMARY KEY, experiment_id INTEGER, scorer_name TEXT);
CREATE TABLE scorer_versions (scorer_id TEXT, scorer_version INTEGER);
CREATE TABLE webhooks (webhook_id TEXT);
"""


class Pair:
    """A project's database, and a source's."""

    def __init__(self) -> None:
        self.here, self.source = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
        self.here.executescript(TABLES)
        self.source.executescript(TABLES)
        self.reserved: dict[str, int] = {}
        self._numbers = count(50)

    def ask(self, statement: str, values: list[tuple[Any, ...]] | None = None) -> list[tuple[Any, ...]]:
        if values is None:
            return self.here.execute(statement).fetchall()
        marks = ", ".join(f"({', '.join('?' * len(row))})" for row in values)
        return self.here.execute(statement.replace("%s", marks), [cell for row in values for cell in row]).fetchall()

    def plan(self, merge: bool = False) -> beside.Plan:
        return beside.plan(self.source, self.ask, lambda: next(self._numbers), self.reserved, merge)

    def experiment(self, database: sqlite3.Connection, number: int, name: str, at: int | None, *runs: str) -> None:
        values = (number, name, at, f"./mlruns/{number}")
        insert = "INSERT INTO experiments (experiment_id, name, creation_time, artifact_location) VALUES (?, ?, ?, ?)"
        database.execute(insert, values)
        database.executemany("INSERT INTO runs VALUES (?, '', 'x', ?)", [(run, number) for run in runs])

    def version(self, database: sqlite3.Connection, name: str, number: int, at: int, run: str | None) -> None:
        database.execute("INSERT OR IGNORE INTO registered_models (name, creation_time) VALUES (?, ?)", (name, at * 10))
        insert = "INSERT INTO model_versions (name, version, source, creation_time, run_id) VALUES (?, ?, ?, ?, ?)"
        database.execute(insert, (name, number, f"s3://b/{name}/{number}", at, run))

    def names(self) -> dict[int, str]:
        return dict(self.source.execute("SELECT experiment_id, name FROM experiments"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    result = Pair()
    result.experiment(result.here, 0, "Default", 1)
    result.experiment(result.here, 1, "one", 10, "here")
    yield result
    result.here.close()
    result.source.close()


def test_a_name_that_is_taken_gets_a_suffix_and_every_experiment_a_number_of_its_own(pair: Pair) -> None:
    pair.experiment(pair.source, 0, "Default", 2)  # empty, as every MLflow makes it
    pair.experiment(pair.source, 1, "one", 20, "r1")
    pair.experiment(pair.source, 2, "one-imported", 21, "r2")
    pair.experiment(pair.source, 50, "two", 22, "r3")
    plan = pair.plan()
    assert pair.names() == {50: "one-imported-2", 51: "one-imported", 52: "two"}
    assert plan.remarks == ["experiment 'one' becomes 'one-imported-2', because this project has one of that name"]
    runs = dict(pair.source.execute("SELECT run_uuid, artifact_uri FROM runs"))
    assert runs["r3"] == "mlflow-artifacts:/52/r3/artifacts"
    tags = pair.source.execute("SELECT experiment_id, key, value FROM experiment_tags ORDER BY 1").fetchall()
    assert tags == [(50, locations.ORIGINAL, "1"), (51, locations.ORIGINAL, "2"), (52, locations.ORIGINAL, "50")]
    assert not [one for one in locations.locations(pair.source) if one.known]


def test_an_experiment_is_recognised_by_its_runs_or_by_name_and_time(pair: Pair) -> None:
    pair.experiment(pair.here, 7, "one-imported", 20, "r1")
    pair.experiment(pair.here, 8, "renamed here", 30, "r2")
    pair.experiment(pair.here, 9, "empty-imported", 40)
    pair.experiment(pair.source, 1, "one", 20, "r1", "new")
    pair.experiment(pair.source, 2, "two", 30, "r2")
    pair.experiment(pair.source, 3, "empty", 40)
    pair.experiment(pair.source, 4, "renamed here", 41)  # another one of that name
    plan = pair.plan()
    assert plan.numbers == {1: 7, 2: 8, 3: 9, 4: 50} and plan.existing == {7, 8, 9}
    assert pair.names() == {50: "renamed here-imported"}
    assert plan.remarks[-1] == "experiments that are here already: 3; what is new in them comes"
    assert {one.id: one.known for one in locations.locations(pair.source)} == {"r1": True, "new": False, "r2": True}
    assert pair.source.execute("SELECT DISTINCT experiment_id FROM experiment_tags").fetchall() == [(50,)]


def test_an_empty_experiment_of_which_no_time_is_known_comes_once(pair: Pair) -> None:
    pair.experiment(pair.here, 7, "empty-imported", None)
    for number, name in ((1, "empty"), (2, "full")):
        pair.experiment(pair.source, number, name, None, *(["r1"] if name == "full" else []))
    pair.experiment(pair.here, 8, "full", None, "other")
    assert pair.plan().numbers == {1: 7, 2: 50} and pair.names() == {50: "full-imported"}


def test_an_interrupted_import_gets_its_numbers_again_and_tells_of_those_that_nobody_wants(pair: Pair) -> None:
    pair.experiment(pair.source, 5, "five", 50, "r5")
    first = pair.plan()
    assert list(first.reserved.values()) == [50]
    pair.source.close()
    pair.source = sqlite3.connect(":memory:")
    pair.source.executescript(TABLES)
    pair.experiment(pair.source, 5, "five", 50, "r5")
    pair.reserved = {**first.reserved, "of another source": 33, "came meanwhile": 1}
    again = pair.plan()
    assert again.reserved == first.reserved and again.stale == [33]


def test_merging_joins_what_has_the_same_name(pair: Pair) -> None:
    pair.experiment(pair.source, 1, "one", 20, "r1")
    pair.experiment(pair.source, 2, "gone", 21)
    pair.experiment(pair.here, 2, "gone", 22)
    pair.source.execute("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'gone'")
    plan = pair.plan(merge=True)
    assert plan.numbers == {1: 1, 2: 50} and pair.names() == {50: "gone-imported"}
    assert "experiment 'one' is merged with the one of this project" in plan.remarks
    assert pair.source.execute("SELECT artifact_uri FROM runs").fetchone() == ("mlflow-artifacts:/1/r1/artifacts",)


def test_versions_follow_those_that_are_there_and_are_recognised_the_next_time(pair: Pair) -> None:
    for database in (pair.here, pair.source):
        pair.version(database, "model", 1, 100 if database is pair.here else 200, "r1")
    pair.version(pair.source, "model", 2, 201, None)
    pair.source.execute("INSERT INTO registered_model_aliases (name, alias, version) VALUES ('model', 'best', 1)")
    plan = pair.plan(merge=True)
    assert "registered model 'model' is merged with the one of this project; version 1 is 2, version 2 is 3" in (
        plan.remarks
    )
    moved = pair.source.execute("SELECT version, creation_time FROM model_versions ORDER BY 1").fetchall()
    assert moved == [(2, 200), (3, 201)]
    assert pair.source.execute("SELECT version FROM registered_model_aliases").fetchone() == (2,)
    assert pair.source.execute("SELECT count(*) FROM registered_models").fetchone() == (0,)

    for row in pair.source.execute("SELECT name, version, source, creation_time, run_id FROM model_versions"):
        insert = "INSERT INTO model_versions (name, version, source, creation_time, run_id) VALUES (?, ?, ?, ?, ?)"
        pair.here.execute(insert, row)
    pair.source.close()
    pair.source = sqlite3.connect(":memory:")
    pair.source.executescript(TABLES)
    pair.version(pair.source, "model", 1, 200, "r1")
    pair.version(pair.source, "model", 2, 201, None)
    assert pair.plan().remarks == ["registered models and prompts that are here already: 1"]
    assert [row[0] for row in pair.source.execute("SELECT version FROM model_versions ORDER BY 1")] == [2, 3]
    assert {one.id: one.known for one in locations.locations(pair.source)} == {"model 2": True, "model 3": True}


def test_versions_that_were_made_at_once_are_as_many_here(pair: Pair) -> None:
    for database, numbers in ((pair.here, (2, 3)), (pair.source, (1, 2, 3))):
        for number in numbers:
            pair.version(database, "model", number, 100, "r1")
    pair.plan()
    moved = pair.source.execute("SELECT version, source FROM model_versions ORDER BY 1").fetchall()
    assert [number for number, _ in moved] == [2, 3, 4]


def test_a_model_that_is_another_ones_name_gets_a_suffix_and_a_prompt_joins_no_model(pair: Pair) -> None:
    pair.version(pair.here, "model", 1, 100, "x")
    pair.version(pair.source, "model", 1, 200, "y")
    pair.source.execute(
        "INSERT INTO registered_model_tags (name, key, value) VALUES ('model', ?, 'true')", (beside.IS_PROMPT,)
    )
    plan = pair.plan(merge=True)
    assert plan.remarks == ["prompt 'model' becomes 'model-imported', because this project has one of that name"]
    for table in ("registered_models", "registered_model_tags", "model_versions"):
        assert pair.source.execute(f"SELECT name FROM {table}").fetchall() == [("model-imported",)]


def test_two_of_the_source_never_become_one_model_here(pair: Pair) -> None:
    pair.version(pair.here, "model", 1, 100, "r1")
    for name in ("model", "model-imported"):
        pair.version(pair.source, name, 1, 100, "r1")
        pair.source.execute("INSERT INTO registered_model_tags (name, key, value) VALUES (?, 'k', 'v')", (name,))
    pair.plan(merge=True)
    models = pair.source.execute("SELECT name, version FROM model_versions ORDER BY 1").fetchall()
    assert models == [("model", 1), ("model-imported", 1)]


def test_a_name_may_be_an_old_and_a_new_one(pair: Pair) -> None:
    pair.version(pair.here, "model", 1, 100, "other")
    pair.version(pair.here, "model-imported", 1, 200, "r1")
    for name, at, run in (("model", 200, "r1"), ("model-imported", 300, "r2")):
        pair.version(pair.source, name, 1, at, run)
        pair.source.execute("INSERT INTO registered_model_tags (name, key, value) VALUES (?, 'k', 'v')", (name,))
    pair.source.execute("CREATE UNIQUE INDEX once ON registered_model_tags (workspace, key, name)")
    pair.plan()
    models = pair.source.execute("SELECT name, run_id FROM model_versions ORDER BY 1").fetchall()
    assert models == [("model-imported", "r1"), ("model-imported-imported", "r2")]


def test_two_experiments_of_the_source_may_be_one_here(pair: Pair) -> None:
    pair.experiment(pair.here, 7, "both", 5, "r1", "r2")
    for number, run in ((4, "r1"), (5, "r2")):
        pair.experiment(pair.source, number, run, number, run)
        pair.source.execute("INSERT INTO experiment_tags VALUES ('note', ?, ?)", (run, number))
        pair.source.execute("INSERT INTO datasets VALUES (?, ?, 'data', 'ab')", (f"d-{run}", number))
        pair.source.execute("INSERT INTO inputs VALUES (?, 'DATASET', ?, 'RUN', ?)", (f"i-{run}", f"d-{run}", run))
    assert pair.plan().numbers == {4: 7, 5: 7}
    assert pair.source.execute("SELECT * FROM experiment_tags").fetchall() == [("note", "r1", 7)]
    assert pair.source.execute("SELECT dataset_uuid, experiment_id FROM datasets").fetchall() == [("d-r1", 7)]
    assert pair.source.execute("SELECT DISTINCT source_id FROM inputs").fetchall() == [("d-r1",)]


def test_a_dataset_that_is_here_keeps_its_id_and_so_do_its_uses(pair: Pair) -> None:
    use = ("DATASET", "d-here", "RUN", "here")
    pair.here.execute("INSERT INTO datasets VALUES ('d-here', 1, 'data', 'ab')")
    pair.here.execute("INSERT INTO inputs VALUES ('i-here', ?, ?, ?, ?)", use)
    pair.experiment(pair.source, 4, "one", 10, "here")
    pair.source.execute("INSERT INTO datasets VALUES ('d-new', 4, 'data', 'ab')")
    pair.source.execute("INSERT INTO inputs VALUES ('i-new', 'DATASET', 'd-new', 'RUN', 'here')")
    pair.source.execute("INSERT INTO input_tags VALUES ('i-new', 'context', 'train')")
    pair.source.execute("INSERT INTO logged_model_metrics VALUES ('m-1', 'd-new')")
    pair.plan()
    assert pair.source.execute("SELECT dataset_uuid FROM logged_model_metrics").fetchall() == [("d-here",)]
    assert pair.source.execute("SELECT * FROM inputs").fetchall() == [("i-here", *use)]
    assert pair.source.execute("SELECT input_uuid FROM input_tags").fetchall() == [("i-here",)]
    assert pair.source.execute("SELECT dataset_uuid, experiment_id FROM datasets").fetchall() == [("d-here", 1)]


def test_the_files_of_a_model_that_was_renamed_here_are_not_written_over(pair: Pair) -> None:
    pair.version(pair.source, "model", 1, 100, None)
    pair.plan()
    (first,) = locations.locations(pair.source)
    held = f"mlflow-artifacts:/{first.target}"
    pair.version(pair.here, "renamed", 1, 100, None)
    pair.here.execute("UPDATE model_versions SET source = ?", (held,))
    pair.source.close()
    pair.source = sqlite3.connect(":memory:")
    pair.source.executescript(TABLES)
    pair.version(pair.source, "model", 1, 200, None)  # another one
    pair.version(pair.source, "renamed", 1, 100, None)  # the same: it stays where it is
    pair.plan()
    found = {one.id: one for one in locations.locations(pair.source)}
    assert found["model 1"].target != first.target and not found["model 1"].known
    assert found["renamed 1"].target == first.target and found["renamed 1"].known


def test_what_acts_by_itself_and_what_an_experiment_has_once_is_left_out_and_told(pair: Pair) -> None:
    pair.here.execute("INSERT INTO scorers VALUES ('s-here', 1, 'judge')")
    pair.experiment(pair.source, 4, "one", 10, "here")
    pair.source.execute("INSERT INTO scorers VALUES ('s-new', 4, 'judge')")
    pair.source.execute("INSERT INTO scorer_versions VALUES ('s-new', 1)")
    pair.source.execute("INSERT INTO webhooks VALUES ('w')")
    assert pair.plan().remarks == [
        "left out: 1 rows of webhooks, which act by themselves or hold the other's secrets",
        "experiments that are here already: 1; what is new in them comes",
        "left out: 1 rows of scorers, because this project has others of these names",
    ]
    for table in ("scorers", "scorer_versions", "webhooks"):
        assert pair.source.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
