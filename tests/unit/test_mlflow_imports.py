"""Locations and ids of a source (trackbed_mlflow/imports): every one leads into this project's space afterwards."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
import tarfile
from pathlib import Path

import pytest
from trackbed_mlflow import errors, schema
from trackbed_mlflow.imports import file_store, locations, merging, rows, run, server_rows, staging

from tests.unit.fakes import trackbed_mlflow

LARGE = 918525069036193794
TABLES = """
CREATE TABLE experiments (experiment_id INTEGER PRIMARY KEY, name TEXT, artifact_location TEXT);
CREATE TABLE experiment_tags (key TEXT, value TEXT, experiment_id INTEGER, PRIMARY KEY (key, experiment_id));
CREATE TABLE runs (run_uuid TEXT PRIMARY KEY, name TEXT, artifact_uri TEXT, experiment_id INTEGER
    REFERENCES experiments (experiment_id));
CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT REFERENCES runs (run_uuid));
CREATE TABLE logged_models (model_id TEXT PRIMARY KEY, name TEXT, artifact_location TEXT, experiment_id INTEGER,
    status INTEGER);
CREATE TABLE trace_info (request_id TEXT PRIMARY KEY, experiment_id INTEGER);
CREATE TABLE trace_tags (key TEXT, value TEXT, request_id TEXT);
CREATE TABLE model_versions (name TEXT, version INTEGER, source TEXT, storage_location TEXT,
    workspace TEXT DEFAULT 'default');
CREATE TABLE registered_model_tags (name TEXT, key TEXT, value TEXT);
CREATE TABLE entity_associations (destination_type TEXT, destination_id TEXT);
"""


@pytest.fixture
def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES)
    connection.executemany(
        "INSERT INTO experiments VALUES (?, ?, ?)", [(0, "Default", "./mlruns/0"), (LARGE, "large", "s3://b/x")]
    )
    connection.executemany(
        "INSERT INTO runs VALUES (?, ?, ?, ?)",
        [("r1", "one", "./mlruns/0/r1/artifacts", 0), ("r2", "two", f"file:///m%20l/{LARGE}/r2/artifacts/", LARGE)],
    )
    connection.execute("INSERT INTO tags VALUES ('mlflow.log-model.history', '[]', 'r2')")
    connection.execute(
        "INSERT INTO logged_models VALUES ('m-1', 'model', 's3://b/x/models/m-1/artifacts', ?, 2)", (LARGE,)
    )
    connection.execute("INSERT INTO trace_info VALUES ('tr-1', ?)", (LARGE,))
    connection.executemany(
        "INSERT INTO trace_tags VALUES (?, ?, 'tr-1')",
        [("mlflow.artifactLocation", "/t/tr-1/artifacts"), ("note", "/t")],
    )
    connection.executemany(
        "INSERT INTO model_versions VALUES ('model', ?, ?, ?, 'default')",
        [
            (1, f"/m l/{LARGE}/r2/artifacts/model", None),
            (2, "models:/m-1", "s3://b/x/models/m-1/artifacts"),
            (3, "runs:/r1/model", None),
            (4, "s3://elsewhere/model", None),
            (5, "dummy-source", None),
        ],
    )
    connection.execute("INSERT INTO registered_model_tags VALUES ('p', '_mlflow_experiment_ids', ?)", (f",0,{LARGE},",))
    connection.execute("INSERT INTO entity_associations VALUES ('experiment', ?)", (str(LARGE),))
    return connection


def test_every_location_leads_into_this_project(database: sqlite3.Connection) -> None:
    assert "cannot hold theirs: 1 " in locations.rewrite(database)[0]
    asked = database.execute
    assert asked("SELECT * FROM experiments").fetchall() == [
        (0, "Default", "mlflow-artifacts:/0"),
        (1, "large", "mlflow-artifacts:/1"),
    ]
    assert asked("SELECT artifact_uri FROM runs").fetchall() == [
        ("mlflow-artifacts:/0/r1/artifacts",),
        ("mlflow-artifacts:/1/r2/artifacts",),
    ]
    assert asked("SELECT artifact_location FROM logged_models").fetchone() == (
        "mlflow-artifacts:/1/models/m-1/artifacts",
    )
    assert asked("SELECT value FROM trace_tags").fetchall() == [("mlflow-artifacts:/1/traces/tr-1/artifacts",), ("/t",)]
    sources = [row[0] for row in asked("SELECT source FROM model_versions")]
    assert sources[:3] == ["mlflow-artifacts:/1/r2/artifacts/model", "models:/m-1", "runs:/r1/model"]
    assert sources[3].startswith("mlflow-artifacts:/registry/") and sources[3].endswith("/4")
    assert sources[4] == "dummy-source"
    stored = asked("SELECT storage_location FROM model_versions WHERE version = 2").fetchone()
    assert stored == ("mlflow-artifacts:/1/models/m-1/artifacts",)
    assert asked("SELECT value FROM registered_model_tags").fetchone() == (",0,1,",)
    assert asked("SELECT destination_id FROM entity_associations").fetchone() == ("1",)
    assert asked("SELECT * FROM experiment_tags").fetchall() == [(locations.ORIGINAL, str(LARGE), 1)]


def test_what_is_to_be_carried_is_told_with_where_it_was(database: sqlite3.Connection) -> None:
    locations.rewrite(database)
    found = {one.id: one for one in locations.locations(database)}
    assert found["r2"].place == f"/m l/{LARGE}/r2/artifacts" and found["r2"].inside == f"{LARGE}/r2/artifacts"
    assert (found["r2"].target, found["r2"].needed, found["r2"].experiment) == ("1/r2/artifacts", True, "large")
    assert found["r1"].uri == "./mlruns/0/r1/artifacts" and not found["r1"].needed
    assert found["model 4"].uri == "s3://elsewhere/model" and found["model 4"].needed
    assert sorted(found) == ["m-1", "model 4", "r1", "r2", "tr-1"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE runs SET run_uuid = 'models/m-1' WHERE run_uuid = 'r1'",
        "UPDATE runs SET run_uuid = '..' WHERE run_uuid = 'r1'",
        "UPDATE logged_models SET model_id = 'm-2/artifacts'",
        "UPDATE trace_info SET request_id = x'00'",
        "UPDATE trace_info SET experiment_id = '1/r1/artifacts'",
        "UPDATE model_versions SET version = '1/x'",
    ],
)
def test_an_id_that_would_lead_to_the_artifacts_of_something_else_is_refused(
    database: sqlite3.Connection, statement: str
) -> None:
    database.execute(statement)
    with pytest.raises(ValueError, match="has an id that no MLflow gives"):
        locations.rewrite(database)


def test_two_places_of_one_version_and_two_models_of_one_name_share_no_folder(database: sqlite3.Connection) -> None:
    insert = "INSERT INTO model_versions VALUES ('model', 9, ?, ?, ?)"
    database.executemany(insert, [("s3://a/1", "s3://a/2", "default"), ("s3://b/1", None, "other")])
    locations.rewrite(database)
    targets = [one.target for one in locations.locations(database) if one.id == "model 9"]
    assert len(set(targets)) == 3 and all(one.startswith("registry/") and one.endswith("/9") for one in targets)


def test_what_a_strangers_database_would_do_by_itself_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "source.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(TABLES)
        connection.execute('CREATE VIEW "a ""view""" AS SELECT 1')
        connection.execute('CREATE TRIGGER "t" AFTER UPDATE ON runs BEGIN DELETE FROM trackbed_known; END')
    staging._disarm(path)
    with sqlite3.connect(path) as connection:
        kinds = {row[0] for row in connection.execute("SELECT type FROM sqlite_schema")}
    assert kinds == {"table", "index"}


def test_rows_that_belong_to_nothing_are_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "staging.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(TABLES)
        connection.execute("INSERT INTO runs VALUES ('r', 'n', 'u', 5)")
        connection.execute("INSERT INTO tags VALUES ('k', 'v', 'r')")
    assert sorted(staging._drop_orphans(path)) == [
        "left out: 1 rows of runs whose experiments is gone",
        "left out: 1 rows of tags whose runs is gone",
    ]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "o/../x", "o/a//b", "x"])
def test_a_stream_with_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    stream.seek(0)
    with pytest.raises(errors.Stop, match="does not belong"):
        list(file_store.files(stream))


def test_a_stream_that_ends_early_is_refused() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("o/0/meta.yaml"))
    for content in (stream.getvalue(), b""):
        with pytest.raises(errors.Stop, match=r"ended early|is damaged"):
            list(file_store.files(io.BytesIO(content)))


def test_sums_know_rows_in_any_order_and_each_type() -> None:
    one, other = rows.Sum(), rows.Sum()
    for row in [(1, "a"), (float("nan"), None), (True, b"x")]:
        one.add(row)
    for row in [(True, b"x"), (float("nan"), None), (1, "a")]:
        other.add(row)
    assert one.text == other.text
    other.add((1, "a"))
    assert one.text != other.text


def test_an_answer_is_waited_for_through_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(700) + b"\n\n\ncommit\n\n")))
    assert (run._answer(), run._answer()) == ("commit", "")


@pytest.mark.parametrize("words", [("import",), ("import", "other"), ("import", "folder", "--all")])
def test_wrong_words_of_the_program(words: tuple[str, ...]) -> None:
    assert trackbed_mlflow(*words).returncode == errors.USAGE


def blocks(about: dict[str, object], *rows: tuple[str, list[str], list[list[object]]]) -> io.BytesIO:
    """A stream as helpers/imports/databases.py writes it."""
    stream = io.BytesIO()
    files = [("about.json", about)]
    files += [
        (f"rows/{table}/{place}", {"columns": names, "rows": ones}) for place, (table, names, ones) in enumerate(rows)
    ]
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in [
            *((f"o/{name}", json.dumps(content).encode()) for name, content in files),
            ("end", b"{}"),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    stream.seek(0)
    return stream


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> server_rows.ServerRows:
    """Whose tables MLflow's migrations would make: here they are fewer."""

    def make(uri: str, revision: str) -> None:
        with sqlite3.connect(tmp_path / "rows.db") as connection:
            connection.executescript(TABLES + "CREATE TABLE spans (content BLOB, attributes JSON);")
            connection.execute("INSERT INTO experiments VALUES (0, 'of a migration', '')")

    monkeypatch.setattr(schema, "make", make)
    monkeypatch.setattr(schema, "known", lambda revision: "newer" if revision == "future" else "older")
    return server_rows.ServerRows(tmp_path / "rows.db")


def test_rows_of_a_server_are_there_as_they_were(server: server_rows.ServerRows, tmp_path: Path) -> None:
    counts = {"experiments": 2, "spans": 2, "runs": 0, "later": 0}
    server.read(
        blocks(
            {"revision": "r", "counts": counts, "foreign": ["users"]},
            ("experiments", ["experiment_id", "name", "mine"], [[1, "ü\u0000", "x"]]),
            ("experiments", ["experiment_id", "name", "mine"], [[2, None, None]]),
            ("spans", ["content", "attributes"], [[["AP8="], "5"], [None, '{"a": 1.5}']]),
        )
    )
    with sqlite3.connect(tmp_path / "rows.db") as connection:
        assert connection.execute("SELECT experiment_id, name FROM experiments").fetchall() == [(1, "ü\0"), (2, None)]
        assert connection.execute("SELECT content FROM spans").fetchall() == [(b"\0\xff",), (None,)]
    assert server.revision == "r"
    assert server.remarks == [
        "left out, because they are no tables of MLflow's own: later, users",
        "left out, because it is not MLflow's own: mine of table experiments",
    ]


@pytest.mark.parametrize(
    "about, rows, words",
    [
        ({"revision": "r", "counts": {"runs": 2}, "foreign": []}, [["a"]], "has 2 rows in the source, and 1 came"),
        ({"revision": "r", "counts": {"runs": 2}, "foreign": []}, [["a"], ["a"]], "does not take the source's rows"),
        ({"revision": "r", "counts": {}, "foreign": []}, [["a"]], "does not belong to a database's rows"),
        ({"revision": "future", "counts": {}, "foreign": []}, [], "of a newer MLflow"),
    ],
)
def test_rows_that_are_not_those_of_the_source_are_refused(
    server: server_rows.ServerRows, about: dict[str, object], rows: list[list[object]], words: str
) -> None:
    with pytest.raises(errors.Stop, match=words):
        server.read(blocks(about, ("runs", ["run_uuid"], rows)))


def test_an_import_waits_for_one_that_was_killed_and_still_writes() -> None:
    class Connection:
        def __enter__(self) -> Connection:
            return self

        def __exit__(self, *_: object) -> None: ...

        def connect(self) -> Connection:
            return self

        def execution_options(self, isolation_level: str) -> Connection:
            assert isolation_level == "AUTOCOMMIT"
            return self

        def exec_driver_sql(self, statement: str) -> Connection:
            assert "pg_try_advisory_lock" in statement
            return self

        def scalar(self) -> bool:
            return free

    for free in (True, False):
        try:
            with merging.alone(Connection()):
                assert free
        except errors.Stop as stop:
            assert not free and "wait a minute" in str(stop)
