"""The slowest log_metric of one training loop while others search, list artifacts, back up or clean up, on both sides.

`python -m benchmarks.bench --only=tails` runs it. One round more than asked goes with py-spy beside it. Its figures do
not count. Its profiles stay in the output folder: what held Python's lock in MLflow's processes, as collapsed stacks.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from benchmarks import profiles
from benchmarks.runs import BEGAN, FILL, TIDY, Asker
from benchmarks.systems import BASELINE_STORE, WEIGHED, Baseline, Measure, Ours, client, run, say

GOAL, MOST = "<= 0.25 s, <= 1 x", 0.25
RUNS, FILES, DELETED = 2_000, 10_000, 500
SEARCHES, LISTS = 40, 200
SECONDS = 20.0
DELETE = """UPDATE runs SET lifecycle_stage = 'deleted', deleted_time = :began
WHERE experiment_id = :experiment AND lifecycle_stage = 'active';"""


class Side:
    """One system and the data in it; the commands are those that its users type."""

    name, user, database, prefix = "ours", "postgres", "mlflow", "live/"  # of a new project

    def __init__(self, system: Ours | Baseline) -> None:
        self.system = system
        self.places = itertools.count(RUNS + 1, DELETED)

    def sql(self, text: str, **variables: object) -> None:
        flags = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        psql = ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", self.user, "-d", self.database, *flags)
        run("docker", "exec", "-i", self.system.container("postgres"), *psql, stdin=text.encode())

    def fill(self) -> None:
        """RUNS runs of one experiment, and a run with FILES artifacts, written beside the server."""
        api = Asker(self.system.url, "").api
        self.experiment, self.trash = (
            str(api("experiments/create", {"name": name})["experiment_id"]) for name in ("tails", "trash")
        )
        info = api("runs/create", {"experiment_id": self.experiment, "start_time": BEGAN})["run"]["info"]
        self.run = str(info["run_id"])
        self.sql(FILL, first=1, last=RUNS, experiment=self.experiment, began=BEGAN)
        self.sql(TIDY)
        path = str(info["artifact_uri"]).removeprefix("mlflow-artifacts:/")
        self.boto("files", self.prefix + path, str(FILES))

    def store(self) -> tuple[str, str, str]:
        """Where the store answers, and its keys."""
        assert isinstance(self.system, Ours)
        keys = self.system.ask("credentials")
        return (
            f"http://127.0.0.1:{self.system.env['TRACKBED_S3_PORT']}",
            str(keys["S3_ACCESS_KEY"]),
            str(keys["S3_SECRET_KEY"]),
        )

    def boto(self, what: str, *words: str) -> None:
        endpoint, key, secret = self.store()
        env = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        client(what, endpoint, "mlflow-artifacts", *words, env=env, image=WEIGHED)

    def delete_runs(self) -> None:
        """DELETED more runs for `gc`."""
        first = next(self.places)
        self.sql(FILL, first=first, last=first + DELETED - 1, experiment=self.trash, began=BEGAN)
        self.sql(DELETE, experiment=self.trash, began=BEGAN)

    def backup(self) -> None:
        assert isinstance(self.system, Ours)
        self.system.invoke("backup")

    def gc(self) -> None:
        assert isinstance(self.system, Ours)
        self.system.invoke("gc", "--older-than=1d", "--yes")

    @contextmanager
    def hung(self) -> Iterator[None]:
        """The store accepts connections and answers nothing."""
        store = self.system.container("store")
        run("docker", "pause", store)
        try:
            yield
        finally:
            run("docker", "unpause", store)

    def loop(self, kind: str = "none", count: int = 0, seconds: float = SECONDS) -> tuple[list[list[float]], str]:
        """When each log_metric began and how long it took; what the others were answered."""
        target = self.experiment if kind == "search" else self.run
        result = client(self.system.url, str(seconds), kind, str(count), target, program="tails_client.py")
        if result["lost"]:
            raise SystemExit(f"{self.name}: {result['lost']} metrics are not there")
        return result["times"], str(result["answers"])

    def beside(self, work: Callable[[], object]) -> tuple[list[list[float]], str]:
        """The loop while ``work`` is done again and again: only what was logged meanwhile counts."""
        spans: list[tuple[float, float]] = []
        failed: list[BaseException] = []
        stop = threading.Event()

        def again() -> None:
            try:
                while not stop.is_set():
                    began = time.time()
                    work()
                    spans.append((began, time.time()))
            except BaseException as error:  # the round is void: told by the caller's thread
                failed.append(error)

        thread = threading.Thread(target=again)
        thread.start()
        try:
            times, _ = self.loop()
        finally:
            stop.set()
            thread.join()
        if failed:
            raise failed[0]
        return [item for item in times if any(first <= item[0] <= last for first, last in spans)], f"{len(spans)} times"

    def profiled(self, folder: Path, what: str) -> AbstractContextManager[None]:
        """py-spy beside each of MLflow's processes."""
        pids = profiles.container_processes(self.system.container("mlflow"))
        return profiles.recorded(pids, folder, f"{self.name}-{what}")


class BaselineSide(Side):
    """The usual compose file; backed up by the usual tools."""

    name, user, database, prefix = "baseline", "user", "mlflowdb", ""

    def backup(self) -> None:
        dump = ("pg_dump", "-Fc", "-f", "/tmp/dump", "-U", self.user, self.database)
        run("docker", "exec", self.system.container("postgres"), *dump)
        self.boto("mirror", self.experiment, "/tmp/mirror", "down", "8")

    def store(self) -> tuple[str, str, str]:
        return f"http://127.0.0.1:{BASELINE_STORE}", "your-access-key", "your-secret-key"

    def gc(self) -> None:
        backend = f"postgresql+psycopg2://{self.user}:password@postgres/{self.database}"
        words = ("mlflow", "gc", "--backend-store-uri", backend, "--tracking-uri", "http://127.0.0.1:8000")
        run("docker", "exec", self.system.container("mlflow"), *words)


Sample = tuple[list[list[float]], str]


def questions(side: Side) -> dict[str, Callable[[], Sample]]:
    """What is done beside the loop, by the name of its row."""

    def collecting() -> Sample:
        def work() -> None:
            side.delete_runs()
            side.gc()

        return side.beside(work)

    def hanging() -> Sample:
        with side.hung():
            return side.loop("list", LISTS)

    return {
        "nothing else": side.loop,
        f"{SEARCHES} clients each search {RUNS:,} runs": lambda: side.loop("search", SEARCHES),
        f"{LISTS} lists of {FILES:,} artifacts": lambda: side.loop("list", LISTS),
        "a backup runs": lambda: side.beside(side.backup),
        "`gc` removes runs": collecting,
        f"the store hangs under {LISTS} lists": hanging,  # the last: what hangs goes on for a while
    }


def percentile(times: Sequence[Sequence[float]], part: float) -> float:
    """Seconds; the slowest where there are too few."""
    ordered = sorted(took for _, took in times)
    return ordered[math.ceil(len(ordered) * part) - 1]


def measure(ours: Ours, baseline: Baseline, rounds: int, folder: Path) -> list[Measure]:
    """Both sides in turns; they are up and empty."""
    sides = (Side(ours), BaselineSide(baseline))
    for side in sides:
        side.fill()
    rows = {what: Measure(f"p99 of log_metric, {what}", GOAL, "s", 1.0, most=MOST) for what in questions(sides[0])}
    for number in range(rounds + 1):
        profiled = number == rounds
        for what, row in rows.items():
            for side, samples in zip(sides, (row.ours, row.other), strict=True):
                name = "".join(letter if letter.isalnum() else "-" for letter in what)
                with side.profiled(folder, name) if profiled else nullcontext():
                    times, answers = questions(side)[what]()
                half, slow = percentile(times, 0.5), percentile(times, 0.99)
                say(f"{side.name}, {what}: p50 {half:.3f}, p99 {slow:.3f} s of {len(times)}, others {answers}")
                if not profiled:
                    samples.append(slow)
    return list(rows.values())
