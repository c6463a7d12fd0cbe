"""The projects whose pages are loaded, what is in them, and plain MLflow over the same database."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.backup import Filled
from benchmarks.runs import BARE, BEGAN, DRESSED, FILL, TIDY, Asker, sql, verify
from benchmarks.systems import READY_SECONDS, folder_seconds
from helpers.engines.base import MLFLOW

FIRST_PAGE = 100  # runs that MLflow's table asks for at once: all of them are in the charts
CHART_STEPS = 1_000  # of each of these runs
WORKERS = "4"  # MLflow's own default
# `points` are read into the shape that MLflow writes; what was the latest value before is replaced
WRITE = """
BEGIN;
CREATE TEMP TABLE points ON COMMIT DROP AS
SELECT i, id, key, step, abs(hashint4((i * 31 + step)::int)::float8) / 2147483648 AS value,
       :began + i * 1000 + step AS at
FROM {points} ORDER BY {order};
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
SELECT key, value, at, id, step, false FROM points;
DELETE FROM latest_metrics l USING points p WHERE p.id = l.run_uuid AND p.key = l.key AND p.step = :steps - 1;
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
SELECT key, value, at, step, false, id FROM points WHERE step = :steps - 1;
COMMIT;
"""
# one training loop after another; FILL has written the first five steps
CHARTED = WRITE.format(
    order="i, step, key",
    points="(SELECT i, md5('growth' || i) AS id FROM generate_series(:first, :last) i) r, "
    "(VALUES ('loss'), ('accuracy')) k(key), generate_series(5, :steps - 1) step",
)
# two of its metrics are those of all runs, and come first on its page
LONG_RUN = WRITE.format(
    order="step, i",
    points="(SELECT i, :'run' AS id, CASE i WHEN 1 THEN 'accuracy' WHEN 2 THEN 'loss' "
    "ELSE 'metric-' || lpad(i::text, 3, '0') END AS key FROM generate_series(1, :metrics) i) r, "
    "generate_series(0, :steps - 1) step",
)
# ends with its standard input or by SIGTERM, and takes its workers along
PLAIN = """import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
words = [sys.executable, "-m", "mlflow", *sys.argv[1:]]
env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its processes do nothing for a page
subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", env=env)
sys.stdin.read()
os.killpg(0, signal.SIGKILL)
"""


@dataclass(frozen=True)
class Size:
    runs: int
    metrics: int  # of the long run
    steps: int  # of each of these

    @property
    def charted(self) -> int:
        return min(self.runs, FIRST_PAGE)


# MLflow draws up to 320 points of a run's metric
FEW, SHOWN, MANY = Size(10, 10, 10), Size(100, 200, 320), Size(100_000, 200, 10_000)


@dataclass
class Side:
    """Two experiments of a project, one with runs and one with a long run; ``first``: the number of its first run."""

    name: str
    size: Size
    system: Filled
    first: int = 1

    @property
    def experiments(self) -> tuple[str, str]:
        return f"pages-{self.name}", f"one-long-run-{self.name}"

    @contextmanager
    def asked(self) -> Iterator[Asker]:
        """The API of its project, which is up."""
        _, engine = self.system.opened()
        with engine.open(MLFLOW, "http") as address:
            yield Asker(address.url, engine.access_token())

    @contextmanager
    def plain(self) -> Iterator[str]:
        """The address of `mlflow server` over the same database, as people run it. It ends with the context."""
        _, engine = self.system.opened()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        words = (
            "server",
            "--host=127.0.0.1",
            f"--port={port}",
            f"--workers={WORKERS}",
            f"--cors-allowed-origins={url}",
        )
        with engine.pipe(MLFLOW, ("python", "-c", PLAIN, *words)):
            end = time.monotonic() + READY_SECONDS
            while True:
                try:
                    Asker(url, "").api("experiments/search", {"max_results": 1})
                    break
                except OSError:  # nothing listens yet
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)
            yield url

    def seconds(self) -> float:
        """Processor seconds so far of its project's services, plain MLflow over its database among them."""
        return folder_seconds(self.system.env["TRACKBED_STATE_DIR"] + f"/{self.system.project}/")

    def fill(self) -> None:
        self.system.invoke("up")
        project, engine = self.system.opened()
        database = project.state.active["database"]
        size, first, last = self.size, self.first, self.first + self.size.runs - 1
        bulk = first
        with self.asked() as asker:
            experiment, other = (
                str(asker.api("experiments/create", {"name": name})["experiment_id"]) for name in self.experiments
            )
            words = {"experiment_id": other, "start_time": BEGAN, "run_name": self.experiments[1]}
            run = asker.api("runs/create", words)["run"]["info"]["run_id"]
            asker.api("runs/update", {"run_id": run, "status": "FINISHED", "end_time": BEGAN + 900})
            if first == 1:
                bulk = FEW.runs + 1
                sql(engine, database, FILL, experiment=experiment, began=BEGAN, first=1, last=FEW.runs)
                verify(engine, database, asker, experiment)
        sql(engine, database, BARE)
        sql(engine, database, FILL, experiment=experiment, began=BEGAN, first=bulk, last=last)
        sql(engine, database, CHARTED, began=BEGAN, first=last - size.charted + 1, last=last, steps=CHART_STEPS)
        sql(engine, database, LONG_RUN, began=BEGAN, run=run, metrics=size.metrics, steps=size.steps)
        sql(engine, database, DRESSED)
        sql(engine, database, TIDY)


@dataclass(frozen=True)
class Content:
    """What the pages of a side are asked for, and show."""

    experiment: str
    newest: str  # names of runs
    best: str
    long_experiment: str
    long_run: str

    @classmethod
    def of(cls, side: Side, asker: Asker) -> Content:
        def number(name: str) -> str:
            path = f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
            return str(asker.ask("GET", path)["experiment"]["experiment_id"])

        def first(experiment: str, order: str) -> dict[str, Any]:
            return dict(asker.search(experiment, order_by=[order])[0]["info"])

        experiment, other = map(number, side.experiments)
        newest, best = (first(experiment, f"{key} DESC") for key in ("attributes.start_time", "metrics.loss"))
        long_run = first(other, "attributes.start_time DESC")["run_id"]
        return cls(experiment, newest["run_name"], best["run_name"], other, long_run)
