"""Runs inside the tracking server's Python: a server of its own over an empty database, and a store that never answers.

Arguments: the database's address, the folder of our modules, and what to do.

queues: prints as JSON which of MLflow's addresses reach the store and are not known to us ("unknown"), how long
log_metric takes in seconds while N lists of artifacts hang ("hung": {N: [...]}), how long the middle one of some
log_metric and of the searches beside it takes ("log_metric", "search"), and how many runs clients make that time out at a
locked table and try again ("runs").

processes: searches while their process is killed, and while gunicorn is told to load again and to end. Prints what did
not go as it should (a list of lines).
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
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

URI, MODULES, WHAT = sys.argv[1:]
sys.path.insert(0, MODULES)
CLIENTS, CLIENT_SECONDS, GIVEN_UP = 10, 2.0, 2  # each client gives up so many attempts
PATIENCE = 300  # seconds, tests.conftest.PATIENCE
RUNS, METRICS, LOGGED = 200, 10, 15  # of the searches' experiment; beside them
ROUNDS = 4
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


class Searches:
    """CLIENTS clients that search RUNS runs of an experiment, again and again."""

    def __init__(self, port: int) -> None:
        self.port = port
        created = ask(port, "POST", "/api/2.0/mlflow/experiments/create", {"name": "searched"})[2]
        self.experiment = created["experiment_id"]
        with ThreadPoolExecutor(CLIENTS) as clients:
            self.run = list(clients.map(self.make_run, range(RUNS)))[-1]
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.ended = threading.Event()

    def make_run(self, _: int) -> str:
        """The ID of a run with METRICS metrics."""
        body = {"experiment_id": self.experiment}
        run = str(ask(self.port, "POST", "/api/2.0/mlflow/runs/create", body)[2]["run"]["info"]["run_id"])
        metrics = [{"key": f"m{number}", "value": 1, "timestamp": 1} for number in range(METRICS)]
        assert ask(self.port, "POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run, "metrics": metrics})[0] == 200
        return run

    def client(self) -> None:
        body = {"experiment_ids": [self.experiment], "max_results": RUNS}
        while not self.ended.is_set():
            status, seconds, answer = ask(self.port, "POST", "/api/2.0/mlflow/runs/search", body)
            whole = status != 200 or len(answer["runs"]) == RUNS
            self.statuses[status if whole else -1] += 1
            self.seconds.append(seconds)

    def some(self) -> bool:
        """Waits until each client has had its answer once more; whether it has."""
        count = len(self.seconds)
        return until(lambda: len(self.seconds) >= count + CLIENTS)

    def log(self) -> tuple[int, float]:
        metric = {"run_id": self.run, "key": "a", "value": 1, "timestamp": 1}
        return ask(self.port, "POST", "/api/2.0/mlflow/runs/log-metric", metric)[:2]

    @contextmanager
    def running(self) -> Iterator[None]:
        self.ended.clear()
        clients = [threading.Thread(target=self.client, daemon=True) for _ in range(CLIENTS)]
        for one in clients:
            one.start()
        try:
            yield
        finally:
            self.ended.set()
            for one in clients:
                one.join(60)


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Waits for what has to come; whether it has."""
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return bool(result)


def searched(port: int) -> dict[str, float]:
    """Seconds of the middle log_metric, and of the middle search beside it, which is at least twice as long.

    Of the last of ROUNDS rounds where it is not: a disk or a machine may be busy for a moment.
    """
    result: dict[str, float] = {}
    searches = Searches(port)
    with searches.running():
        for _ in range(ROUNDS):
            searches.some()
            begun = len(searches.seconds)
            logged = [searches.log() for _ in range(LOGGED)]
            assert all(status == 200 for status, _ in logged), logged
            searches.some()
            result = {
                "log_metric": statistics.median(seconds for _, seconds in logged),
                "search": statistics.median(searches.seconds[begun:]),
            }
            if result["log_metric"] < result["search"] / 2:
                break
    assert set(searches.statuses) == {200}, searches.statuses
    return result


def search_processes(server: int) -> set[int]:
    """Those of gunicorn's children that have stepped back for logging."""
    result: set[int] = set()
    for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        with suppress(OSError):  # it has just ended
            nice = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[16])
            result |= {int(pid)} if nice > os.nice(0) else set()
    return result


def processes(port: int, server: subprocess.Popen[bytes], folder: Path) -> list[str]:
    """What did not go as it should."""
    wrong: list[str] = []

    def expect(what: str, holds: object) -> None:
        if not holds:
            wrong.append(f"{what}: {dict(searches.statuses)}")

    def others(*before: int) -> set[int]:
        return search_processes(server.pid) - {*before}

    searches = Searches(port)
    expect("a server that searches little has none", not others())
    with searches.running():
        expect("one process begins", until(others) and len(others()) == 1)
        expect("it answers", searches.some())
        expect("logging goes on beside it", all(searches.log()[0] == 200 for _ in range(LOGGED)))
        expect("each search is answered whole", set(searches.statuses) == {200})
        killed = others().pop()
        os.kill(killed, signal.SIGKILL)
        expect("logging goes on without it", all(searches.log()[0] == 200 for _ in range(LOGGED)))
        expect("so do searches", searches.some())
        expect("who was interrupted is told to come again", set(searches.statuses) <= {200, 503})
        server.send_signal(signal.SIGHUP)  # the workers are replaced
        expect("another process begins", until(lambda: others(killed)))
        expect("searches go on", searches.some())
    searches.statuses.clear()
    with searches.running():
        searches.some()
        server.send_signal(signal.SIGTERM)
        searches.ended.set()  # those that run are the last ones
        expect("the server ends", until(lambda: server.poll() is not None))
    # what came as the door closed was not begun
    expect("what ran at the end was answered", set(searches.statuses) <= {200, 503, 0} and searches.statuses[200])
    expect(f"it ends well ({server.returncode})", server.returncode == 0)
    expect("its sockets are gone", not list(folder.glob("tmp-search-*")))
    return wrong


def locked(port: int) -> int:
    """How many runs there are after CLIENTS made one each, with time-outs, while the table was locked."""
    import psycopg2  # type: ignore[import-untyped,import-not-found,unused-ignore]

    experiment = ask(port, "POST", "/api/2.0/mlflow/experiments/create", {"name": "locked"})[2]["experiment_id"]
    connection = psycopg2.connect(URI.replace("+psycopg2", ""))
    cursor = connection.cursor()
    cursor.execute("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE")

    given_up = threading.Semaphore(0)

    def client() -> None:
        path, body = "/api/2.0/mlflow/runs/create", {"experiment_id": experiment}
        for _ in range(GIVEN_UP):
            assert ask(port, "POST", path, body, CLIENT_SECONDS)[0] == 0
        given_up.release()
        assert ask(port, "POST", path, body, PATIENCE)[0] == 200

    clients = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    for _ in clients:
        assert given_up.acquire(timeout=PATIENCE)
    time.sleep(1)  # until the server has seen that the last ones are gone
    connection.rollback()
    for one in clients:
        one.join(PATIENCE)
    time.sleep(1)
    cursor.execute("SELECT count(*) FROM runs WHERE experiment_id = %s", (int(experiment),))
    return int(cursor.fetchone()[0])


@contextmanager
def hanging_store() -> Iterator[int]:
    """The port of a store that tells a server, which starts, that its bucket is there, and answers nothing else."""
    taken: list[socket.socket] = []
    told = b"<ListBucketResult></ListBucketResult>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
        told
    )

    def take() -> None:
        while True:
            connection = store.accept()[0]
            taken.append(connection)
            connection.settimeout(10)
            with suppress(OSError):
                if b"max-keys=1&" in connection.recv(65536).split(b"\r\n")[0]:
                    connection.sendall(head + told)

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as store:
        threading.Thread(target=take, daemon=True).start()
        yield store.getsockname()[1]


@contextmanager
def running_server(folder: str, store: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server with one worker that answers: its port and its first process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "TRACKBED_OWN_TMP": folder,
        "PYTHONPATH": "",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{store}",
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
        until(lambda: ask(port, "GET", "/health")[0] or server.poll() is not None, 120)
        assert ask(port, "GET", "/api/2.0/mlflow/experiments/search?max_results=1")[0] == 200, Path(
            folder, "log"
        ).read_text()
        yield port, server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


def main() -> None:
    result: Any
    with (
        hanging_store() as store,
        tempfile.TemporaryDirectory() as folder,
        running_server(folder, store) as (port, server),
    ):
        if WHAT == "processes":
            result = processes(port, server, Path(folder))
        else:
            result = {**searched(port), "runs": locked(port), "hung": {lists: hung(port, lists) for lists in (30, 120)}}
    print(json.dumps(result if WHAT == "processes" else {**result, "unknown": unknown()}))


main()
