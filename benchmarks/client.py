"""A client of a tracking server, run in the notebook's image for both sides; prints one JSON object.

latency URL COUNT        client.log_metric, one client, kept connection: seconds p50 and p95
load URL SECONDS KIND    32 clients over raw HTTP (log-metric, log-batch, search): requests a second, and the
                         processors that the clients themselves used
artifact URL MIB         one artifact up and down through the client: MiB a second
boto ENDPOINT BUCKET MIB the same bytes with boto3, straight to the store
files ENDPOINT BUCKET PREFIX COUNT  objects of one byte below a prefix, straight to the store: count, seconds
fetch RUN FOLDER         a folder of a run's artifacts, with the notebook's variables: count, seconds
mirror ENDPOINT BUCKET PREFIX FOLDER down|up THREADS  all objects below a prefix as files, or back: count, seconds
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CLIENTS, PROCESSES = 32, 4


def latency(url: str, count: int) -> dict[str, float]:
    from mlflow import MlflowClient  # type: ignore[import-not-found]

    client = MlflowClient(url)
    run = client.create_run("0").info.run_id
    times = []
    for step in range(count + 20):
        began = time.perf_counter()
        client.log_metric(run, "loss", 1 / (step + 1), step=step)
        times.append(time.perf_counter() - began)
    times = sorted(times[20:])
    return {"p50": statistics.median(times), "p95": times[int(len(times) * 0.95)]}


def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> bytes:
    connection.request("POST", f"/api/2.0/mlflow/{path}", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {data[:200]!r}")
    return data


def _clients(netloc: str, seconds: float, kind: str, counts: Any, slot: int) -> None:
    lock = threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection(netloc, timeout=120)
        run = json.loads(_post(connection, "runs/create", {"experiment_id": "0", "start_time": 1}))
        run_id, done, step = run["run"]["info"]["run_id"], 0, 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step += 1
            if kind == "log-metric":
                _post(
                    connection,
                    "runs/log-metric",
                    {"run_id": run_id, "key": "loss", "value": 0.5, "timestamp": 1, "step": step},
                )
            elif kind == "log-batch":
                _post(
                    connection,
                    "runs/log-batch",
                    {
                        "run_id": run_id,
                        "metrics": [
                            {"key": f"m{i}", "value": 0.5, "timestamp": step, "step": step} for i in range(100)
                        ],
                    },
                )
            else:
                _post(connection, "runs/search", {"experiment_ids": ["0"], "max_results": 25})
            done += 1
        with lock:
            counts[slot] += done

    threads = [threading.Thread(target=work) for _ in range(CLIENTS // PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load(url: str, seconds: float, kind: str) -> dict[str, float]:
    counts = multiprocessing.Array("q", PROCESSES)
    netloc = urlsplit(url).netloc
    began = time.perf_counter()
    workers = [
        multiprocessing.Process(target=_clients, args=(netloc, seconds, kind, counts, slot))
        for slot in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a client failed")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "per_second": sum(counts[:]) / seconds,
        "client_cpus": (used.ru_utime + used.ru_stime) / (time.perf_counter() - began),
    }


def _file(folder: str, mib: int) -> Path:
    path = Path(folder, "artifact.bin")
    block = os.urandom(1 << 20)
    with path.open("wb") as stream:
        for _ in range(mib):
            stream.write(block)
    return path


def artifact(url: str, mib: int) -> dict[str, float]:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    run = client.create_run("0").info.run_id
    with tempfile.TemporaryDirectory() as folder:
        path = _file(folder, mib)
        began = time.perf_counter()
        client.log_artifact(run, str(path))
        up = time.perf_counter() - began
        path.unlink()
        began = time.perf_counter()
        result = Path(client.download_artifacts(run, "artifact.bin", folder))
        down = time.perf_counter() - began
        if result.stat().st_size != mib << 20:
            raise SystemExit("the artifact came back with another size")
    return {"up": mib / up, "down": mib / down}


def boto(endpoint: str, bucket: str, mib: int) -> dict[str, float]:
    import boto3  # type: ignore[import-untyped,unused-ignore]

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    with tempfile.TemporaryDirectory() as folder:
        path = _file(folder, mib)
        began = time.perf_counter()
        client.upload_file(str(path), bucket, "bench/artifact.bin")
        up = time.perf_counter() - began
        path.unlink()
        began = time.perf_counter()
        client.download_file(bucket, "bench/artifact.bin", str(path))
        down = time.perf_counter() - began
    client.delete_object(Bucket=bucket, Key="bench/artifact.bin")
    return {"up": mib / up, "down": mib / down}


def files(endpoint: str, bucket: str, prefix: str, count: int) -> dict[str, float]:
    from concurrent.futures import ThreadPoolExecutor

    import boto3
    from botocore.config import Config

    began, threads = time.perf_counter(), 16
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", config=Config(max_pool_connections=threads)
    )

    def put(number: int) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{number:06}.txt", Body=b"x")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(count)))
    return {"count": count, "seconds": time.perf_counter() - began}


def fetch(run: str, path: str) -> dict[str, float]:
    from mlflow.artifacts import download_artifacts  # type: ignore[import-not-found,unused-ignore]

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = Path(download_artifacts(run_id=run, artifact_path=path, dst_path=folder))
        took = time.perf_counter() - began
        return {"count": len(list(found.iterdir())), "seconds": took}


def mirror(endpoint: str, bucket: str, prefix: str, folder: str, way: str, threads: int) -> dict[str, float]:
    from concurrent.futures import ThreadPoolExecutor

    import boto3
    from botocore.config import Config

    began, top = time.perf_counter(), Path(folder)
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", config=Config(max_pool_connections=threads * 10)
    )

    def down(key: str) -> None:
        path = top / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, key, str(path))

    def up(path: Path) -> None:
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(top).as_posix()}")

    with ThreadPoolExecutor(threads) as pool:
        if way == "down":
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
            count = len(list(pool.map(down, (item["Key"] for page in pages for item in page.get("Contents", ())))))
        else:
            count = len(list(pool.map(up, (path for path in top.rglob("*") if path.is_file()))))
    return {"count": count, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    result = {
        "latency": lambda: latency(words[0], int(words[1])),
        "load": lambda: load(words[0], float(words[1]), words[2]),
        "artifact": lambda: artifact(words[0], int(words[1])),
        "boto": lambda: boto(words[0], words[1], int(words[2])),
        "files": lambda: files(words[0], words[1], words[2], int(words[3])),
        "fetch": lambda: fetch(words[0], words[1]),
        "mirror": lambda: mirror(words[0], words[1], words[2], words[3], words[4], int(words[5])),
    }[what]()
    print(json.dumps(result))
