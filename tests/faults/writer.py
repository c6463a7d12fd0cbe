"""Logs runs through MLflow's client while it is told to; writes down what the server acknowledged.

    python writer.py TRACKING_URI JOURNAL SEED RETRIES

One JSON line per acknowledged write, on the disk before the next write is begun. Lines on stdin: `go`, `pause`
(answered by `paused` on stdout when no write is under way). Ends when stdin does.
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


class Orders:
    """What stdin told last."""

    def __init__(self) -> None:
        self.going, self.ended, self.asked = threading.Event(), threading.Event(), threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            if line.strip() == "go":
                self.going.set()
            else:
                self.going.clear()
                self.asked.set()
        self.ended.set()
        self.going.set()

    def wait(self) -> bool:
        """Answer a `pause` and wait it out; False at the end."""
        while not self.going.is_set():
            if self.asked.is_set():
                self.asked.clear()
                print("paused", flush=True)
            self.going.wait(0.02)
        return not self.ended.is_set()


def main(uri: str, journal: Path, seed: int, retries: str) -> None:
    # a write without an answer is given up soon: what happened to it is not known
    os.environ |= {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": retries,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    import mlflow  # type: ignore[import-not-found]

    orders = Orders()
    client, chosen = mlflow.MlflowClient(uri), random.Random(seed)
    experiment, run, step = "", "", 0
    with journal.open("a") as stream, tempfile.TemporaryDirectory() as folder:

        def acknowledged(**write: Any) -> None:
            stream.write(json.dumps({"at": time.time(), **write}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

        while orders.wait():
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
                    client.get_run(run)  # the client remembers where its artifacts go, also when a restore took the run
                    client.log_artifact(run, str(path))
                    path.unlink()
                    acknowledged(run=run, kind=kind, path=path.name, sha=hashlib.sha256(content).hexdigest())
            except Exception as error:
                # not acknowledged: it may be there or not; the writer goes on with something else
                print(
                    f"{time.time():.1f} {type(error).__name__} {' '.join(str(error).split())[:300]}",
                    file=sys.stderr,
                    flush=True,
                )
                experiment = run = ""  # a restore may have taken them away
                orders.ended.wait(0.2)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
