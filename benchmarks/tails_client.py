"""One training loop beside other clients, run in the notebook's image for both sides; prints one JSON object.

URL SECONDS KIND COUNT TARGET   log_metric through MLflow's client, STEPS times a second, while COUNT others ask:
                                search (a page of RUNS runs of the experiment TARGET), list (the artifacts of the run
                                TARGET); COUNT may be 0
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import sys
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

STEPS, RUNS, PROCESSES = 20, 2000, 4
PATIENCE = 300.0  # seconds that a client of the load waits for one answer


def clients(netloc: str, kind: str, target: str, seconds: float, count: int, reported: Any) -> None:
    """Answers by status that ``count`` clients got, each over a connection of its own that it keeps."""
    result: Counter[str] = Counter()
    method, path, body = asked(kind, target)
    end = time.monotonic() + seconds

    def work() -> None:
        connection = http.client.HTTPConnection(netloc, timeout=PATIENCE)
        while time.monotonic() < end:
            try:
                connection.request(
                    method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                answer.read()
                result[str(answer.status)] += 1
                if answer.status == 503:
                    time.sleep(float(answer.headers.get("Retry-After", 1)))
            except (OSError, http.client.HTTPException):
                result["none"] += 1
                connection.close()
                time.sleep(1)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()) + 1)  # one that still waits is not waited for
    reported.put(dict(result))


def asked(kind: str, target: str) -> tuple[str, str, dict[str, Any] | None]:
    if kind == "search":
        return "POST", "/api/2.0/mlflow/runs/search", {"experiment_ids": [target], "max_results": RUNS}
    return "GET", f"/api/2.0/mlflow/artifacts/list?run_id={target}", None


def loop(url: str, seconds: float, kind: str, count: int, target: str) -> dict[str, Any]:
    """Seconds of each log_metric with the time when it began, and the answers of the others by status."""
    netloc = urlsplit(url).netloc
    reported: Any = multiprocessing.SimpleQueue()
    load = [
        multiprocessing.Process(target=clients, args=(netloc, kind, target, seconds, count // PROCESSES, reported))
        for _ in range(PROCESSES if count else 0)
    ]
    from mlflow import MlflowClient  # type: ignore[import-not-found]

    client = MlflowClient(url)
    run = client.create_run("0").info.run_id
    for step in range(20):
        client.log_metric(run, "loss", 1.0, step=step)
    times: list[tuple[float, float]] = []
    for process in load:
        process.start()
    began = time.monotonic()
    time.sleep(2.0 if load else 0.0)  # the others have begun
    step, due = 20, time.monotonic()
    while due < began + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        at, start = time.time(), time.perf_counter()
        client.log_metric(run, "loss", 1 / (step + 1), step=step)
        times.append((at, time.perf_counter() - start))
        step, due = step + 1, max(due + 1 / STEPS, time.monotonic())
    answers: Counter[str] = Counter()
    for process in load:
        answers.update(reported.get())
        process.join()
    kept = len(client.get_metric_history(run, "loss"))
    return {"times": times, "answers": answers, "lost": step - kept}


if __name__ == "__main__":
    url, seconds, kind, count, target = sys.argv[1:]
    print(json.dumps(loop(url, float(seconds), kind, int(count), target)))
