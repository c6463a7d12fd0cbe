"""Logs runs through MLflow's client until it is told to stop; writes down what the server acknowledged.

    python writer.py TRACKING_URI JOURNAL SEED

One JSON line per acknowledged write, on the disk before the next write is begun. Ends when stdin does.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any


def main(uri: str, journal: Path, seed: int) -> None:
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
                   "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    import mlflow

    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    client, chosen = mlflow.MlflowClient(uri), random.Random(seed)
    experiment, run, step = "", "", 0
    with journal.open("a") as stream, tempfile.TemporaryDirectory() as folder:

        def acknowledged(**write: Any) -> None:
            stream.write(json.dumps({"at": time.time(), **write}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

        while not ended.is_set():
            try:
                if not experiment:
                    experiment = client.create_experiment(f"faults {seed} {time.time_ns()}")
                if not run or chosen.random() < 0.1:
                    run, step = client.create_run(experiment).info.run_id, 0
                    acknowledged(run=run, kind="run")
                kind = chosen.choice(["metric", "metric", "param", "artifact"])
                step += 1
                if kind == "metric":
                    value = chosen.random()
                    client.log_metric(run, "m", value, step=step)
                    acknowledged(run=run, kind=kind, step=step, value=value)
                elif kind == "param":
                    client.log_param(run, f"p{step}", f"ü{step}")
                    acknowledged(run=run, kind=kind, key=f"p{step}", value=f"ü{step}")
                else:
                    content = chosen.randbytes(chosen.choice([0, 100, 100_000, 2_000_000]))
                    path = Path(folder, f"a{step}.bin")
                    path.write_bytes(content)
                    client.log_artifact(run, str(path))
                    path.unlink()
                    acknowledged(run=run, kind=kind, path=path.name, sha=hashlib.sha256(content).hexdigest())
            except Exception as error:
                # not acknowledged: it may be there or not; the writer goes on with something else
                print(f"{time.time():.1f} {type(error).__name__}", file=sys.stderr, flush=True)
                ended.wait(0.2)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
