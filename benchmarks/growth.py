"""How answers slow down as runs pile up: one experiment with 10^3 runs, then with 10^5 and 10^6 rows of metrics.

    python -m benchmarks.growth [--runs=100000]

Asks the system of this clone's settings (`invoke up` first; its data should be empty), on either engine. Runs are
written by SQL in the exact shape that MLflow writes, which is checked against a run that MLflow wrote itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench import table
from benchmarks.systems import Measure
from helpers import lifecycle, status
from helpers.database_settings import USER
from helpers.engines.base import MLFLOW, POSTGRES, Engine
from helpers.errors import TrackbedError
from helpers.project.project import Project

SMALL, LARGE, LIMIT = 1_000, 100_000, 2.0
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
# what autovacuum does in its own time
TIDY = "VACUUM ANALYZE runs, params, tags, metrics, latest_metrics;"


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

    return {
        "search_runs page": page(25),
        "search_runs page, ordered by a metric": page(25, order_by=["metrics.loss ASC"]),
        "search_runs page, parameter of every tenth run": page(25, filter="params.lr = '3'"),
        "search_runs page, parameter of one run": page(1, filter="params.seed = '500'"),
        "search_runs page, tag of every fifth run": page(25, filter="tags.team = 't3'"),
        f"metric history, {LONG_HISTORY} steps": history,
        "first page of the UI": first_page,
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


def grow(project: Project, runs: int) -> list[Measure]:
    """Rows whose "ours" is the time with ``runs`` runs and whose "baseline" the time with SMALL."""
    engine, database = status.running(project), project.state.active["database"]
    with engine.open(MLFLOW, "http") as address:
        asker = Asker(address.url, engine.access_token())
        experiment = str(asker.api("experiments/create", {"name": f"growth-{time.time_ns()}"})["experiment_id"])
        if int(sql(engine, database, "SELECT count(*) FROM runs")[0]) > SMALL:
            raise SystemExit("this system has runs already: growth is measured from an empty one")
        reported = {"experiment": experiment, "began": BEGAN}
        sql(engine, database, FILL, first=1, last=SMALL, **reported)
        verify(engine, database, asker, experiment)
        asked = questions(asker, experiment, long_run(asker, experiment))
        result = [Measure(f"{name}, {SMALL} to {runs} runs", f"<= {LIMIT:.0f} x", "ms", limit=LIMIT) for name in asked]
        for samples, last in (("other", SMALL), ("ours", runs)):
            if last > SMALL:
                sql(engine, database, FILL, first=SMALL + 1, last=last, **reported)
            sql(engine, database, TIDY)
            asker.connection.close()  # the server has ended it, the fill lasts longer than its patience
            for row, ask in zip(result, asked.values(), strict=True):
                getattr(row, samples).extend(measure(ask))
    return result


def spread(found: list[Measure]) -> str:
    """The table with medians; the columns are the two sizes."""
    return table(found).replace("| ours | baseline |", f"| large | {SMALL} runs |", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=LARGE)
    try:
        result = grow(lifecycle.load({}), parser.parse_args().runs)
    except TrackbedError as error:
        raise SystemExit(f"error: {error}; {error.hint}") from None
    for row in result:
        print(f"{row.name}: {statistics.median(row.other):.1f} -> {statistics.median(row.ours):.1f} ms")
    print(spread(result))


if __name__ == "__main__":
    main()
