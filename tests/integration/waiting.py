"""Runs inside the tracking server's Python: a server of its own over an empty database, and a store that never answers.

Arguments: the database's address, and the folder of our modules. Prints as JSON: which of MLflow's addresses reach the
store and are not known to us ("unknown"), how long log_metric takes in seconds while N lists of artifacts hang
("hung": {N: [...]}), how long the middle one of some log_metric and of the searches beside it takes ("log_metric",
"search"), and how many runs clients make that time out at a locked table and try again ("runs").
"""

from __future__ import annotations

import ast
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

URI, MODULES = sys.argv[1:]
sys.path.insert(0, MODULES)
CLIENTS, CLIENT_SECONDS, LOCKED_SECONDS = 10, 2.0, 5.0
RUNS, METRICS, LOGGED = 200, 10, 15  # of the searches' experiment; beside them
REPOSITORY = {"get_artifact_repository", "_get_artifact_repo_mlflow_artifacts", "_get_artifact_repository_for_uri"}


def reaching_the_store(folder: Path) -> set[str]:
    """The names of MLflow's functions from which, by name, a call leads to an artifact repository."""
    calls: dict[str, set[str]] = {}
    files = [
        file for names in ("server/*.py", "server/graphql/*.py", "store/*/sql*_store.py") for file in folder.glob(names)
    ]
    for file in files:
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                names = calls.setdefault(function.name, set())
                for node in ast.walk(function):
                    names |= {node.id} if isinstance(node, ast.Name) else set()
                    names |= {node.attr} if isinstance(node, ast.Attribute) else set()
    result, before = set(REPOSITORY), 0
    while len(result) > before:
        before = len(result)
        result |= {name for name, called in calls.items() if called & result}
    return result


def unknown() -> list[str]:
    """Flask's addresses whose handler reaches the store, and that our pool does not take."""
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = URI
    os.environ["MLFLOW_TRACE_ARCHIVAL_CONFIG"] = "asked for"
    import mlflow  # type: ignore[import-not-found,unused-ignore]
    from mlflow.server import app  # type: ignore[import-not-found,unused-ignore]
    from trackbed_mlflow import artifact_pool  # type: ignore[import-not-found,unused-ignore]

    names = reaching_the_store(Path(mlflow.__file__).parent)
    assert {
        "_list_artifacts",
        "serve_artifacts",
        "_download_artifact",
        "_get_trace",
        "resolve_mlflow_list_artifacts",
        "get_model_version_artifact_handler",
    } <= names
    server_info = re.compile(r"/(?:ajax-)?api/3\.0/mlflow/server-info")  # looks what kind of a repository it is
    paths = {
        re.sub(r"<(\w+:)?\w+>", "x", rule.rule): app.view_functions[rule.endpoint].__name__
        for rule in app.url_map.iter_rules()
    }
    reach = {path for path, name in paths.items() if name in names and not server_info.fullmatch(path)}
    assert len(reach) > 20
    return sorted(path for path in reach if not artifact_pool.waits_for_store(path) and path != artifact_pool.GRAPHQL)


def ask(port: int, method: str, path: str, body: object = None, timeout: float = 60) -> tuple[int, float, Any]:
    """Status, seconds and answer; status 0 when none came in time."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, time.monotonic() - began, json.loads(answer.read() or b"{}")
    except (OSError, http.client.HTTPException, ValueError):
        return 0, time.monotonic() - began, {}
    finally:
        connection.close()


def hung(port: int, lists: int) -> list[float]:
    """Seconds that each of ten log_metric takes while so many lists of artifacts wait."""
    run = ask(port, "POST", "/api/2.0/mlflow/runs/create", {"experiment_id": "0"})[2]["run"]["info"]["run_id"]
    for number in range(lists):
        path = (
            f"/ajax-api/2.0/mlflow/artifacts/list?run_id={run}"
            if number % 2
            else f"/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/model.bin"
        )
        threading.Thread(target=ask, args=(port, "GET", path), daemon=True).start()
    time.sleep(2)
    metric = {"run_id": run, "key": "a", "value": 1, "timestamp": 1}
    result = [ask(port, "POST", "/api/2.0/mlflow/runs/log-metric", metric) for _ in range(10)]
    assert all(status == 200 for status, *_ in result), result
    # what goes MLflow's own way is not kept waiting either
    status, seconds, _ = ask(
        port,
        "POST",
        "/api/3.0/mlflow/traces/search",
        {"locations": [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}]},
    )
    assert status == 200
    return [round(seconds, 3) for seconds in (*(taken for _, taken, _ in result), seconds)]


def searched(port: int) -> dict[str, float]:
    """Seconds of the middle log_metric, and of the middle search of RUNS runs by CLIENTS clients beside it."""
    experiment = ask(port, "POST", "/api/2.0/mlflow/experiments/create", {"name": "searched"})[2]["experiment_id"]
    metrics = [{"key": f"m{number}", "value": 1, "timestamp": 1} for number in range(METRICS)]
    for _ in range(RUNS):
        created = ask(port, "POST", "/api/2.0/mlflow/runs/create", {"experiment_id": experiment})[2]
        run = created["run"]["info"]["run_id"]
        assert ask(port, "POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run, "metrics": metrics})[0] == 200
    searches: list[float] = []
    logged = threading.Event()

    def client() -> None:
        body = {"experiment_ids": [experiment], "max_results": RUNS}
        while not logged.is_set():
            status, seconds, answer = ask(port, "POST", "/api/2.0/mlflow/runs/search", body)
            assert status == 200 and len(answer["runs"]) == RUNS
            searches.append(seconds)

    clients = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    end = time.monotonic() + 60
    while len(searches) < CLIENTS and time.monotonic() < end:
        time.sleep(0.05)
    metric = {"run_id": run, "key": "a", "value": 1, "timestamp": 1}
    result = [ask(port, "POST", "/api/2.0/mlflow/runs/log-metric", metric) for _ in range(LOGGED)]
    logged.set()
    for one in clients:
        one.join(60)
    assert all(status == 200 for status, *_ in result), result
    return {
        "log_metric": statistics.median(seconds for _, seconds, _ in result),
        "search": statistics.median(searches),
    }


def locked(port: int) -> int:
    """How many runs there are after CLIENTS made one each, with time-outs, while the table was locked."""
    import psycopg2  # type: ignore[import-untyped,import-not-found,unused-ignore]

    experiment = ask(port, "POST", "/api/2.0/mlflow/experiments/create", {"name": "locked"})[2]["experiment_id"]
    connection = psycopg2.connect(URI.replace("+psycopg2", ""))
    cursor = connection.cursor()
    cursor.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")

    def client() -> None:
        while ask(port, "POST", "/api/2.0/mlflow/runs/create", {"experiment_id": experiment}, CLIENT_SECONDS)[0] != 200:
            time.sleep(0.1)

    clients = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    time.sleep(LOCKED_SECONDS)
    connection.rollback()
    for one in clients:
        one.join(60)
    time.sleep(1)
    cursor.execute("SELECT count(*) FROM runs WHERE experiment_id = %s", (int(experiment),))
    return int(cursor.fetchone()[0])


def main() -> None:
    taken: list[socket.socket] = []  # connections to the store: accepted, never answered
    store = socket.create_server(("127.0.0.1", 0), backlog=1000)
    threading.Thread(target=lambda: taken.extend(store.accept()[0] for _ in iter(int, 1)), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": folder,
            "TMPDIR": folder,
            "PYTHONPATH": "",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{store.getsockname()[1]}",
            "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
            "MLFLOW_BACKEND_STORE_URI": URI,
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://hung/live",
            "TRACKBED_HOST": "127.0.0.1",
            "TRACKBED_PORT": str(port),
            "TRACKBED_WORKERS": "1",
            "PGPASSFILE": os.environ.get("PGPASSFILE", ""),
        }
        with open(f"{folder}/log", "wb") as log:
            server = subprocess.Popen(
                [sys.executable, f"{MODULES}/start.py", "serve"],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            end = time.monotonic() + 120
            while ask(port, "GET", "/health")[0] == 0 and server.poll() is None and time.monotonic() < end:
                time.sleep(0.3)
            assert ask(port, "GET", "/api/2.0/mlflow/experiments/search?max_results=1")[0] == 200, Path(
                folder, "log"
            ).read_text()
            result = {**searched(port), "runs": locked(port), "hung": {lists: hung(port, lists) for lists in (30, 120)}}
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(10)
    print(json.dumps({**result, "unknown": unknown()}))


main()
