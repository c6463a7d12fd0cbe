"""Many runs in the exact shape that MLflow writes, by SQL, and a client that asks for them."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from helpers.database_settings import USER
from helpers.engines.base import POSTGRES, Engine

BEGAN = 1_700_000_000_000
LONG_HISTORY = 1_000  # steps of the one run whose history is asked for
LONG_ID = hashlib.md5(b"growth-long", usedforsecurity=False).hexdigest()
NAME = "growth"  # of the experiments with runs
TABLES = ("runs", "params", "tags", "metrics", "latest_metrics")
Sql = Callable[..., list[str]]  # psql in one database: a script, its variables

# each run: 3 parameters, 5 tags, 2 metrics of 5 steps; psql's variables: experiment, first, last
FILL = """
BEGIN;
CREATE TEMP TABLE fresh ON COMMIT DROP AS SELECT i, md5('growth' || i) AS id FROM generate_series(:first, :last) i;
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
                  source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time)
SELECT id, 'growth-' || i, 'UNKNOWN', '', '', '', 'FINISHED', :began + i * 1000, :began + i * 1000 + 900, '', 'active',
       'mlflow-artifacts:/' || :experiment || '/' || id || '/artifacts', :experiment, NULL FROM fresh;
INSERT INTO params (key, value, run_uuid)
SELECT key, value, id FROM fresh, LATERAL (VALUES ('lr', (i % 10)::text), ('depth', (i % 7)::text),
                                                  ('seed', i::text)) p(key, value);
INSERT INTO tags (key, value, run_uuid)
SELECT key, value, id FROM fresh, LATERAL (VALUES ('mlflow.user', 'ann'), ('mlflow.source.name', 'train.py'),
    ('mlflow.source.type', 'LOCAL'), ('mlflow.runName', 'growth-' || i), ('team', 't' || i % 5)) t(key, value);
CREATE TEMP TABLE points ON COMMIT DROP AS
SELECT id, key, step, abs(hashint4((i * 31 + step)::int)::float8) / 2147483648 AS value,
       :began + i * 1000 + step AS at
FROM fresh, LATERAL (VALUES ('loss'), ('accuracy')) k(key), generate_series(0, 4) step;
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
SELECT key, value, at, id, step, false FROM points;
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
SELECT key, value, at, step, false, id FROM points WHERE step = 4;
COMMIT;
"""
EXPERIMENTS = """
INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace)
SELECT :'name' || '-' || i, '', 'active', :began + i, :began + i, 'default' FROM generate_series(:first, :last) i;
UPDATE experiments SET artifact_location = 'mlflow-artifacts:/' || experiment_id WHERE artifact_location = '';
"""
# the oldest run; its metric falls step by step
LONG_RUN = """
BEGIN;
INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time,
                  source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time)
VALUES (:'run', 'one-long-run', 'UNKNOWN', '', '', '', 'FINISHED', :began, :began + 900, '', 'active',
        'mlflow-artifacts:/' || :experiment || '/' || :'run' || '/artifacts', :experiment, NULL);
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
SELECT 'loss', 1.0 / (step + 1), :began + step, :'run', step, false FROM generate_series(0, :steps - 1) step;
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
SELECT key, value, timestamp, step, is_nan, run_uuid FROM metrics
WHERE run_uuid = :'run' AND key = 'loss' AND step = :steps - 1;
COMMIT;
"""
# Rows come in about five times as fast without the indexes and foreign keys of the four tables below runs.
BARE = """
CREATE TABLE growth_bare AS
SELECT 'ALTER TABLE ' || conrelid::regclass || ' DROP CONSTRAINT ' || quote_ident(conname) AS away,
       'ALTER TABLE ' || conrelid::regclass || ' ADD CONSTRAINT ' || quote_ident(conname) || ' '
           || pg_get_constraintdef(oid) AS back,
       CASE contype WHEN 'f' THEN 2 ELSE 1 END AS step
FROM pg_constraint
WHERE conrelid = ANY(ARRAY['params', 'tags', 'metrics', 'latest_metrics']::regclass[]) AND contype IN ('p', 'f')
UNION ALL
SELECT 'DROP INDEX ' || indexrelid::regclass, pg_get_indexdef(indexrelid), 1 FROM pg_index
WHERE indrelid = ANY(ARRAY['params', 'tags', 'metrics', 'latest_metrics']::regclass[]) AND NOT indisprimary;
DO $$ DECLARE words text; BEGIN
    FOR words IN SELECT away FROM growth_bare ORDER BY step DESC LOOP EXECUTE words; END LOOP;
END $$;
"""
DRESSED = """
SET maintenance_work_mem = '512MB';
DO $$ DECLARE words text; BEGIN
    FOR words IN SELECT back FROM growth_bare ORDER BY step, back LOOP EXECUTE words; END LOOP;
END $$;
DROP TABLE growth_bare;
"""
# what autovacuum does in its own time
TIDY = "VACUUM ANALYZE runs, params, tags, metrics, latest_metrics, experiments;"


class Asker:
    """One kept connection to the tracking server."""

    def __init__(self, url: str, token: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        self.headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's JSON, {} for a page. Raises SystemExit on another status than 200."""
        self.connection.request(method, path, json.dumps(body) if body is not None else None, self.headers)
        answer = self.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {data[:300]!r}")
        return dict(json.loads(data)) if answer.headers.get_content_type() == "application/json" else {}

    def api(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self.ask("POST", f"/api/2.0/mlflow/{path}", body)

    def search(self, experiment: str, **words: Any) -> list[dict[str, Any]]:
        result = self.api("runs/search", {"experiment_ids": [experiment], "max_results": 25, **words})
        return list(result.get("runs", []))


def sql(engine: Engine, database: str, text: str, **variables: object) -> list[str]:
    """The lines that psql prints. Raises SystemExit with what the server said."""
    flags = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
    done = engine.exec(
        POSTGRES,
        ("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database, *flags),
        stdin=text.encode(),
        timeout=900,
    )
    if done.code:
        raise SystemExit(f"psql: {done.stderr.strip()[-2000:]}")
    return done.stdout.splitlines()


def sample(asker: Asker, experiment: str, i: int) -> str:
    """The run number ``i`` of FILL as MLflow writes it itself; gives its id."""
    at = BEGAN + i * 1000
    tags = {"mlflow.user": "ann", "mlflow.source.name": "train.py", "mlflow.source.type": "LOCAL"}
    run = str(
        asker.api(
            "runs/create",
            {
                "experiment_id": experiment,
                "start_time": at,
                "run_name": f"growth-{i}",
                "tags": [{"key": k, "value": v} for k, v in tags.items()],
            },
        )["run"]["info"]["run_id"]
    )
    for step in range(5):
        asker.api(
            "runs/log-batch",
            {
                "run_id": run,
                "metrics": [
                    {"key": key, "value": 0.25, "timestamp": at + step, "step": step} for key in ("loss", "accuracy")
                ],
            },
        )
    params = {"lr": i % 10, "depth": i % 7, "seed": i}
    asker.api(
        "runs/log-batch",
        {
            "run_id": run,
            "tags": [{"key": "team", "value": f"t{i % 5}"}],
            "params": [{"key": k, "value": str(v)} for k, v in params.items()],
        },
    )
    asker.api("runs/update", {"run_id": run, "status": "FINISHED", "end_time": at + 900})
    return run


def shape(engine: Engine, database: str, run: str) -> dict[str, list[str]]:
    """Every row of a run as JSON, without its id and the values of its metrics."""
    result = {}
    for name in TABLES:
        hidden = "- 'value'" if "metrics" in name else ""
        result[name] = sorted(
            line.replace(run, "ID")
            for line in sql(engine, database, f"SELECT to_jsonb(t) {hidden} FROM {name} t WHERE run_uuid = '{run}'")
        )
    return result


def verify(engine: Engine, database: str, asker: Asker, experiment: str) -> None:
    """A run of FILL has the rows of the same run logged over MLflow's API. Raises SystemExit with the difference."""
    own = sample(asker, experiment, 7)
    filled = sql(engine, database, "SELECT md5('growth7')")[0]
    theirs, ours = shape(engine, database, own), shape(engine, database, filled)
    for name in TABLES:
        if theirs[name] != ours[name] or not ours[name]:
            raise SystemExit(f"{name}: MLflow writes {theirs[name]}, the fill {ours[name]}")
    asker.api("runs/delete", {"run_id": own})


def first_experiment(psql: Sql) -> str:
    return psql(f"SELECT experiment_id FROM experiments WHERE name = '{NAME}-1'")[0]


def fill(psql: Sql, runs: int, experiments: int, listed: int) -> None:
    """``runs`` in each of the experiments, a run with a long history, and ``listed`` experiments without any."""
    psql(EXPERIMENTS, name=NAME, began=BEGAN, first=1, last=experiments)
    ids = psql(f"SELECT experiment_id FROM experiments WHERE name LIKE '{NAME}-%' ORDER BY creation_time")
    psql(BARE)
    for number, experiment in enumerate(ids):
        at = number * runs  # the number of a run is part of its id
        psql(FILL, experiment=experiment, began=BEGAN, first=at + 1, last=at + runs)
    psql(LONG_RUN, experiment=ids[0], began=BEGAN, run=LONG_ID, steps=LONG_HISTORY)
    psql(DRESSED)
    psql(EXPERIMENTS, name="listed", began=BEGAN + experiments, first=1, last=listed)
    psql(TIDY)
