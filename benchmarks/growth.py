"""How answers slow down as runs pile up: a project with 10^3 runs beside one with 10^5 and 10^6 rows of metrics.

    python -m benchmarks.growth [--engine=docker] [--runs=100000] [--rounds=5]
    python -m benchmarks.growth --experiments=100 --runs=10000   # 10^6 runs, 10^7 rows, 10^4 experiments
    python -m benchmarks.growth fill --folder=DIR; … measure --folder=DIR; … remove --folder=DIR

Two projects of its own are asked in turns, each question of one and then of the other. Runs are written by SQL in the
exact shape that MLflow writes, which is checked against a run that MLflow wrote itself.

The output folder has the figures (ENGINE.json), what PostgreSQL reads for each question with the plan of each statement
(ENGINE-few-statements.json and -many-), and a profile of MLflow's processes under each question by py-spy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import profiles, steps
from benchmarks.backup import Filled
from benchmarks.bench import table
from benchmarks.runs import LONG_HISTORY, LONG_ID, Asker, Sql, fill, first_experiment, sql, verify
from benchmarks.systems import Measure, say
from helpers.clone import ROOT
from helpers.engines.base import MLFLOW, Engine
from helpers.errors import TrackbedError

SMALL, LARGE = 1_000, 100_000
LIMIT, SITE_LIMIT = 2.0, 3.0  # one large experiment; many beside it
PAGES = 1_000, 10_000  # experiments of the page of experiments
CHART = 100  # runs of a chart, and of a comparison
TURNS = 9  # answers of each side in one round
PROFILED_SECONDS = 3  # of each question


@dataclass(frozen=True)
class Question:
    """Requests, and how many entries of which list the last one has to give."""

    requests: tuple[tuple[str, str, dict[str, Any] | None], ...]
    counted: str = ""
    count: int = 0

    @property
    def to_api(self) -> list[tuple[str, str, dict[str, Any] | None]]:
        """Without those for pages and scripts, which ask PostgreSQL nothing."""
        return [request for request in self.requests if request[1].startswith(("/api/", "/ajax-api/"))]

    def ask(self, asker: Asker) -> None:
        """Raises SystemExit where the answer is not what the fill put there."""
        for method, path, body in self.requests:
            answer = asker.ask(method, path, body)
        if self.counted and len(answer.get(self.counted, ())) != self.count:
            raise SystemExit(
                f"{path} {body}: {len(answer.get(self.counted, ()))} {self.counted} instead of {self.count}"
            )


def charted(last: int) -> list[str]:
    """The ids of the newest runs of a fill."""
    return [
        hashlib.md5(f"growth{i}".encode(), usedforsecurity=False).hexdigest() for i in range(last, last - CHART, -1)
    ]


def questions(experiment: str, last: int) -> dict[str, Question]:
    """What is asked, by name. ``last``: the number of the newest run of the experiment."""
    own, page = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow"

    def search(count: int, **words: Any) -> Question:
        body = {"experiment_ids": [experiment], "max_results": 25, **words}
        return Question((("POST", f"{own}/runs/search", body),), "runs", count)

    newest = {
        "max_results": 100,
        "order_by": ["attributes.start_time DESC"],
        "run_view_type": "ACTIVE_ONLY",
        "filter": "",
    }
    first_page = (
        ("GET", "/", None),
        ("POST", f"{page}/experiments/search", {"max_results": 25}),
        ("GET", f"{page}/experiments/get?experiment_id={experiment}", None),
        ("POST", f"{page}/runs/search", {"experiment_ids": [experiment], **newest}),
    )
    history = f"{own}/metrics/get-history?run_id={LONG_ID}&metric_key=loss&max_results={LONG_HISTORY}"
    ids = charted(last)
    chart = f"{page}/metrics/get-history-bulk-interval?{'&'.join(f'run_ids={one}' for one in ids)}"
    listed = {"max_results": 25, "order_by": ["last_update_time DESC"]}
    return {
        "search_runs page": search(25),
        "search_runs page, the oldest": search(25, order_by=["attributes.start_time ASC"]),
        "search_runs page, ordered by a metric": search(25, order_by=["metrics.loss ASC"]),
        "search_runs page, parameter of every tenth run": search(25, filter="params.lr = '3'"),
        "search_runs page, parameter of one run": search(1, filter="params.seed = '500'"),
        "search_runs page, tag of every fifth run": search(25, filter="tags.team = 't3'"),
        f"metric history, {LONG_HISTORY} steps": Question((("GET", history, None),), "metrics", LONG_HISTORY),
        "first page of the UI": Question(first_page, "runs", 100),
        f"chart of a metric over {CHART} runs": Question(
            (("GET", f"{chart}&metric_key=loss&max_results=320", None),), "metrics", CHART * 5
        ),
        f"compare {CHART} runs, one request each": Question(
            tuple(("GET", f"{page}/runs/get?run_id={one}", None) for one in ids)
        ),
        "page of experiments": Question((("POST", f"{page}/experiments/search", listed),), "experiments", 25),
    }


@dataclass(frozen=True)
class Side:
    """A project with its runs."""

    name: str
    runs: int
    experiments: int
    listed: int
    system: Filled

    @contextmanager
    def opened(self) -> Iterator[tuple[Asker, Engine, Sql]]:
        """Its API, engine and database; the project is up."""
        project, engine = self.system.opened()
        with engine.open(MLFLOW, "http") as address:
            psql = partial(sql, engine, project.state.active["database"])
            yield Asker(address.url, engine.access_token()), engine, psql

    @property
    def processes(self) -> list[str]:
        """MLflow's, by their ids."""
        if self.system.engine == "docker":
            return profiles.container_processes(f"{self.system.project}-mlflow-1")
        return profiles.folder_processes(self.folder, "mlflow")

    @property
    def modules(self) -> str:
        """Where MLflow's service has Trackbed's."""
        return "/opt/trackbed" if self.system.engine == "docker" else str(self.folder / "app")

    @property
    def folder(self) -> Path:
        return Path(self.system.env["TRACKBED_STATE_DIR"], self.system.project, self.system.engine)

    def fill(self) -> None:
        self.system.invoke("up")
        with self.opened() as (asker, engine, psql):
            fill(psql, self.runs, self.experiments, self.listed)
            verify(engine, self.system.live["database"], asker, first_experiment(psql))


def milliseconds(asker: Asker, question: Question) -> float:
    began = time.perf_counter()
    question.ask(asker)
    return (time.perf_counter() - began) * 1000


def compare(few: Side, many: Side, rounds: int) -> list[Measure]:
    """Rows whose "ours" is the project with many runs and whose "baseline" the one with few, asked in turns; medians
    of each round."""
    limit = LIMIT if many.experiments == 1 else SITE_LIMIT
    title = f"{few.runs} to {many.runs * many.experiments} runs"
    title += f", {many.experiments} experiments" if many.experiments > 1 else ""
    with ExitStack() as stack:
        small, large = (stack.enter_context(side.opened()) for side in (few, many))
        pairs = tuple(
            (asker, questions(first_experiment(psql), side.runs), samples)
            for (asker, _, psql), side, samples in ((small, few, "other"), (large, many, "ours"))
        )
        rows = {name: Measure(f"{name}, {title}", f"<= {limit:.0f} x", "ms", limit=limit) for name in pairs[0][1]}
        for number in range(rounds + 1):  # the first one warms up
            for name, row in rows.items():
                times: dict[str, list[float]] = {"other": [], "ours": []}
                for _ in range(TURNS):
                    for asker, asked, samples in pairs:
                        times[samples].append(milliseconds(asker, asked[name]))
                for samples, found in times.items() if number else ():
                    getattr(row, samples).append(statistics.median(found))
            say(f"round {number} of {rounds}")
    return list(rows.values())


def statements(engine: Engine, modules: str, asked: dict[str, Question]) -> dict[str, Any]:
    """What benchmarks/statements.py finds in a project's own server."""
    script = Path(__file__).with_name("statements.py").read_text()
    requests = json.dumps({name: question.to_api for name, question in asked.items()}).encode()
    done = engine.exec(MLFLOW, ("python", "-c", script, modules), stdin=requests, timeout=300)
    if done.code:
        raise SystemExit(f"statements.py: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def profile(side: Side, folder: Path) -> None:
    """What PostgreSQL reads for each question, and where MLflow's processes spend their time under it."""
    folder.mkdir(parents=True, exist_ok=True)
    with side.opened() as (asker, engine, psql):
        asked = questions(first_experiment(psql), side.runs)
        read = statements(engine, side.modules, asked)
        (folder / f"{side.system.engine}-{side.name}-statements.json").write_text(json.dumps(read, indent=1))
        for name, question in asked.items():
            with profiles.recorded(
                side.processes, folder, f"{side.system.engine}-{side.name}-{name}", PROFILED_SECONDS
            ):
                end = time.monotonic() + PROFILED_SECONDS
                while time.monotonic() < end:
                    question.ask(asker)


def projects(engine: str, folder: Path, runs: int, experiments: int) -> tuple[Side, Side]:
    """One with few and one with many runs, in state folders of their own."""
    port = 27240 if engine == "embedded" else 27270
    few, many = (Filled(engine, folder, f"growth-{name}", port + 4 * n) for n, name in enumerate(("few", "many")))
    return Side("few", SMALL, 1, PAGES[0], few), Side("many", runs, experiments, PAGES[1], many)


def whole(engine: str, folder: Path, rounds: int, out: Path) -> list[Measure]:
    """Fill both projects, compare them, profile them, and remove them."""
    folder.mkdir(mode=0o755)
    pair = projects(engine, folder, LARGE, 1)
    try:
        for side in pair:
            side.fill()
        result = compare(*pair, rounds)
        for side in pair:
            profile(side, out)
        return result
    finally:
        for side in pair:
            side.system.invoke("down", "--delete-data", "--yes")


def spread(found: list[Measure]) -> str:
    """The table; its columns are the two sizes."""
    return table(found).replace("| ours | baseline |", f"| many | {SMALL} runs |", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("fill", "measure", "profile", "remove"))
    parser.add_argument("--engine", choices=("docker", "embedded"), default="embedded")
    parser.add_argument("--runs", type=int, default=LARGE, help="of each experiment")
    parser.add_argument("--experiments", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="", help="of the two projects")
    parser.add_argument("--out", type=Path, default=ROOT / ".nox" / "growth", help="folder of figures and profiles")
    args = parser.parse_args()
    folder = steps.folder(parser, args)
    few, many = projects(args.engine, folder, args.runs, args.experiments)

    def filled() -> None:
        for side in (few, many):
            side.fill()

    def measured() -> None:
        for side in (few, many):
            side.system.invoke("up")  # of this very clone
        before = os.getloadavg()
        rows = compare(few, many, args.rounds)
        machine = steps.machine(args, before)
        args.out.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine, "measures": [asdict(row) for row in rows]}
        (args.out / f"{args.engine}.json").write_text(json.dumps(result, indent=1))
        print(f"{machine}\n\n{spread(rows)}")

    def profiled() -> None:
        for side in (few, many):
            profile(side, args.out)

    try:
        wanted: dict[str, Callable[[], None]] = {"fill": filled, "measure": measured, "profile": profiled}
        steps.run(args.step, wanted, (few.system, many.system), folder)
    except TrackbedError as error:
        raise SystemExit(f"error: {error}; {error.hint}") from None


if __name__ == "__main__":
    main()
