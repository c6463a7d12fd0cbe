"""`invoke import` of 100,000 runs into a project that has data: how long, and that no process needs more memory for it.

TRACKBED_IMPORT_RUNS is another number of runs.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Clone
from tests.integration import inspection
from tests.integration.snapshot import Server

pytestmark = pytest.mark.timeout(5400)
RUNS = int(os.environ.get("TRACKBED_IMPORT_RUNS", "100000"))
MOST = 500 * 2**10  # KiB of the largest process
# in the project's MLflow environment: MLflow's own tables, and for each run 5 parameters, 5 metrics of 1 value, 4 tags
WRITE = """
import sqlite3, sys
import sqlalchemy
from mlflow.store.db import utils
from trackbed_mlflow import schema
path, runs = sys.argv[1], int(sys.argv[2])
schema.find_migrations()
engine = sqlalchemy.create_engine(f"sqlite:///{path}")
utils._initialize_tables(engine)
engine.dispose()
base = sqlite3.connect(path)
base.executescript("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;")
def insert(table, columns, rows):
    named = columns.split()
    base.executemany(f"INSERT INTO {table} ({', '.join(named)}) VALUES ({', '.join('?' * len(named))})", rows)
here = range(runs)
insert("experiments", "experiment_id name artifact_location lifecycle_stage creation_time last_update_time workspace",
       [(n, f"many {n}", f"mlflow-artifacts:/{n}", "active", 1, 1, "default") for n in range(1, 6)])
insert("runs", "run_uuid name source_type source_name entry_point_name user_id status start_time end_time "
       "source_version lifecycle_stage artifact_uri experiment_id",
       ((f"{n:032x}", f"run {n}", "LOCAL", "train.py", "", "ann", "FINISHED", n, n + 1, "", "active",
         f"mlflow-artifacts:/{n % 5 + 1}/{n:032x}/artifacts", n % 5 + 1) for n in here))
insert("params", "run_uuid key value", ((f"{n:032x}", f"p{k}", str(n * k)) for n in here for k in range(5)))
insert("tags", "run_uuid key value", ((f"{n:032x}", f"t{k}", str(n + k)) for n in here for k in range(4)))
insert("metrics", "run_uuid key value timestamp step is_nan",
       ((f"{n:032x}", f"m{k}", n / (k + 1), n, 0, 0) for n in here for k in range(5)))
insert("latest_metrics", "run_uuid key value timestamp step is_nan",
       ((f"{n:032x}", f"m{k}", n / (k + 1), n, 0, 0) for n in here for k in range(5)))
base.commit()
"""


def test_many_runs_beside_what_a_project_has(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    clone = clone_factory("embedded")
    clone.up()
    (python,) = inspection.mlflow_python(clone)
    source = tmp_path / "many.db"
    (tmp_path / "mlartifacts").mkdir()  # where a server keeps artifacts: these runs have none
    subprocess.run(
        [python, "-c", WRITE, str(source), str(RUNS)],
        check=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "docker" / "mlflow")},
        stdin=subprocess.DEVNULL,
        timeout=1800,
    )
    server = Server(clone.url("mlflow"))
    own = server.post("experiments/create", name="many 1")["experiment_id"]
    kept = server.post("runs/create", experiment_id=own)["run"]["info"]["run_id"]
    for attempt in ("first", "second"):
        begun = time.monotonic()
        with (tmp_path / attempt).open("wb+") as said:
            argv = [*clone.command, "import", str(source)]
            process = subprocess.Popen(
                argv, cwd=clone.folder, env=clone.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            _, code, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(code)
        text = (tmp_path / attempt).read_text("utf-8")
        assert process.returncode == 0, text
        print(f"{attempt}: {RUNS} runs in {time.monotonic() - begun:.0f} s; {used.ru_maxrss / 2**10:.0f} MiB at most")
        assert used.ru_maxrss < MOST
        assert ("has all of the source already" if attempt == "second" else "every row was read back") in text, text
        assert "'many 1' becomes 'many 1-imported'" in text or attempt == "second"
    assert server.get("runs/get", run_id=kept)["run"]["info"]["status"] == "RUNNING"
    last = server.get("runs/get", run_id=f"{RUNS - 1:032x}")["run"]["data"]
    assert len(last["params"]) == len(last["metrics"]) == 5
