"""How answers slow down as runs pile up: one experiment with 10^3 runs, then with 10^5 and 10^6 rows of metrics.

    python -m benchmarks.growth [--runs=100000]
    python -m benchmarks.growth --experiments=100 --runs=10000   # 10^6 runs, 10^7 rows, 10^4 experiments

Asks the system of this clone's settings (`invoke up` first; its data should be empty), on either engine. With
--engine=docker or --engine=embedded it makes one of its own, and removes it at the end.

Runs are written by SQL in the exact shape that MLflow writes, which is checked against a run that MLflow wrote itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.backup import Filled
from benchmarks.bench import table
from benchmarks.systems import Measure
from helpers import lifecycle, status
from helpers.database_settings import USER
from helpers.engines.base import MLFLOW, POSTGRES, Engine
from helpers.errors import TrackbedError
from helpers.project.project import Project

SMALL, LARGE = 1_000, 100_000
LIMIT, SITE_LIMIT = 2.0, 3.0  # one large experiment; many beside it
PAGES = 1_000, 10_000  # experiments of the page of experiments
CHART = 100  # runs of a chart, and of a comparison
LONG_HISTORY = 1_000  # steps of the one run whose history is asked for
BEGAN = 1_700_000_000_000
TABLES = ("runs", "params", "tags", "metrics", "latest_metrics")

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
SELECT 'listed-' || i, 'mlflow-artifacts:/listed-' || i, 'active', :began + i, :began + i, 'default'
FROM generate_series(:first, :last) i;
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


def long_run(asker: Asker, experiment: str) -> str:
    run = str(asker.api("runs/create", {"experiment_id": experiment, "start_time": BEGAN})["run"]["info"]["run_id"])
    for first in range(0, LONG_HISTORY, 500):
        asker.api(
            "runs/log-batch",
            {
                "run_id": run,
                "metrics": [
                    {"key": "loss", "value": 1 / (step + 1), "timestamp": BEGAN + step, "step": step}
                    for step in range(first, first + 500)
                ],
            },
        )
    return run


def questions(asker: Asker, experiment: str, run: str) -> dict[str, Callable[[], object]]:
    """What is asked, by name; each fails when the answer is not what the fill put there."""

    def page(count: int, **words: Any) -> Callable[[], object]:
        def ask() -> None:
            if len(match := asker.search(experiment, **words)) != count:
                raise SystemExit(f"{words}: {len(match)} runs instead of {count}")

        return ask

    def history() -> None:
        path = f"/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=loss&max_results={LONG_HISTORY}"
        if len(asker.ask("GET", path)["metrics"]) != LONG_HISTORY:
            raise SystemExit("the history is not whole")

    def first_page() -> None:
        """What the browser asks for to show the newest runs of an experiment."""
        asker.ask("GET", "/")
        asker.ask("POST", "/ajax-api/2.0/mlflow/experiments/search", {"max_results": 25})
        asker.ask("GET", f"/ajax-api/2.0/mlflow/experiments/get?experiment_id={experiment}")
        asker.ask(
            "POST",
            "/ajax-api/2.0/mlflow/runs/search",
            {
                "experiment_ids": [experiment],
                "max_results": 100,
                "order_by": ["attributes.start_time DESC"],
                "run_view_type": "ACTIVE_ONLY",
                "filter": "",
            },
        )

    def charted() -> list[str]:
        """The newest runs of the fill: each has a metric of five steps."""
        if not ids:
            ids.extend(
                one["info"]["run_id"]
                for one in asker.search(experiment, filter="params.depth != ''", max_results=CHART)
            )
        return ids

    def chart() -> None:
        words = "&".join(f"run_ids={one}" for one in charted())
        path = f"/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval?{words}&metric_key=loss&max_results=320"
        if len(asker.ask("GET", path)["metrics"]) != CHART * 5:
            raise SystemExit("the chart is not whole")

    def compare() -> None:
        for one in charted():
            asker.ask("GET", f"/ajax-api/2.0/mlflow/runs/get?run_id={one}")

    def listed() -> None:
        words = {"max_results": 25, "order_by": ["last_update_time DESC"]}
        asker.ask("POST", "/ajax-api/2.0/mlflow/experiments/search", words)

    ids: list[str] = []
    return {
        "search_runs page": page(25),
        "search_runs page, the oldest": page(25, order_by=["attributes.start_time ASC"]),
        "search_runs page, ordered by a metric": page(25, order_by=["metrics.loss ASC"]),
        "search_runs page, parameter of every tenth run": page(25, filter="params.lr = '3'"),
        "search_runs page, parameter of one run": page(1, filter="params.seed = '500'"),
        "search_runs page, tag of every fifth run": page(25, filter="tags.team = 't3'"),
        f"metric history, {LONG_HISTORY} steps": history,
        "first page of the UI": first_page,
        f"chart of a metric over {CHART} runs": chart,
        f"compare {CHART} runs, one request each": compare,
        "page of experiments": listed,
    }


def measure(ask: Callable[[], object], count: int = 21) -> list[float]:
    """Milliseconds of each answer, after three that warm up."""
    times = []
    for n in range(count + 3):
        began = time.perf_counter()
        ask()
        if n >= 3:
            times.append((time.perf_counter() - began) * 1000)
    return times


def grow(project: Project, runs: int, experiments: int = 1) -> list[Measure]:
    """Rows whose "ours" is the time with ``runs`` runs in each of the experiments, and whose "baseline" the time with
    SMALL runs in one."""
    engine, database = status.running(project), project.state.active["database"]
    limit = LIMIT if experiments == 1 else SITE_LIMIT
    with engine.open(MLFLOW, "http") as address:
        asker = Asker(address.url, engine.access_token())
        if int(sql(engine, database, "SELECT count(*) FROM runs")[0]) > SMALL:
            raise SystemExit("this system has runs already: growth is measured from an empty one")
        names = [f"growth-{time.time_ns()}-{number}" for number in range(experiments)]
        ids = [str(asker.api("experiments/create", {"name": name})["experiment_id"]) for name in names]

        def fill(number: int, first: int, last: int) -> None:
            at = number * runs  # the number of a run is part of its id
            variables = {"experiment": ids[number], "began": BEGAN, "first": at + first, "last": at + last}
            sql(engine, database, FILL, **variables)

        fill(0, 1, SMALL)
        sql(engine, database, EXPERIMENTS, began=BEGAN, first=1, last=PAGES[0])
        verify(engine, database, asker, ids[0])
        asked = questions(asker, ids[0], long_run(asker, ids[0]))
        title = f"{SMALL} to {runs} runs" + (f", {experiments} experiments" if experiments > 1 else "")
        result = [Measure(f"{name}, {title}", f"<= {limit:.0f} x", "ms", limit=limit) for name in asked]
        for samples in ("other", "ours"):
            if samples == "ours":
                sql(engine, database, BARE)
                fill(0, SMALL + 1, runs)
                for number in range(1, experiments):
                    fill(number, 1, runs)
                sql(engine, database, DRESSED)
                sql(engine, database, EXPERIMENTS, began=BEGAN, first=PAGES[0] + 1, last=PAGES[1])
            sql(engine, database, TIDY)
            asker.connection.close()  # the server has ended it, the fill lasts longer than its patience
            for row, ask in zip(result, asked.values(), strict=True):
                getattr(row, samples).extend(measure(ask))
    return result


def spread(found: list[Measure]) -> str:
    """The table with medians; the columns are the two sizes."""
    return table(found).replace("| ours | baseline |", f"| large | {SMALL} runs |", 1)


@contextmanager
def own_project(engine: str) -> Iterator[Project]:
    """An empty project that is up, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="trackbed-bench-"))
    folder.chmod(0o755)  # the services' accounts go through it
    system = Filled(engine, folder, "growth", 27240)
    try:
        system.invoke("up")
        yield system.opened()[0]
    finally:
        system.invoke("down", "--delete-data", "--yes")
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=LARGE, help="of each experiment")
    parser.add_argument("--experiments", type=int, default=1)
    parser.add_argument("--engine", choices=("docker", "embedded"), help="measure a project of its own")
    args = parser.parse_args()
    try:
        with own_project(args.engine) if args.engine else nullcontext(lifecycle.load({})) as project:
            result = grow(project, args.runs, args.experiments)
    except TrackbedError as error:
        raise SystemExit(f"error: {error}; {error.hint}") from None
    for row in result:
        print(f"{row.name}: {statistics.median(row.other):.1f} -> {statistics.median(row.ours):.1f} ms")
    print(spread(result))


if __name__ == "__main__":
    main()
