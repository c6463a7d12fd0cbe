"""How long MLflow's pages take in a browser with little and with much on them, in turns, in headless Chromium.

    python -m benchmarks.pages [--rounds=5] [--engine=docker]
    python -m benchmarks.pages fill --folder=DIR; … measure --folder=DIR; … remove --folder=DIR

Two projects of its own: one with 10 runs, and a run with 10 metrics of 10 steps; the other with 10^5 runs, and a run
with 200 metrics of 10^4 steps. Each page has been visited before, so its files are in the browser's cache. It is loaded
when what a person came for is drawn: ten rows of the table, or each line of each chart in the window.

One round more goes with Chromium's profiler. Its figures do not count; its profiles stay in the output folder.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, ViewportSize

from benchmarks.backup import Filled
from benchmarks.bench import table
from benchmarks.runs import BARE, BEGAN, DRESSED, FILL, TIDY, Asker, sql, verify
from benchmarks.systems import Measure, say
from helpers.clone import ROOT
from helpers.engines.base import MLFLOW
from tests import chromium

LIMIT = 1.1
WARM = 2  # rounds that fill the browser's caches
FIRST_PAGE = 100  # runs that MLflow's table asks for at once: all of them are in the charts
CHART_STEPS = 1_000  # of each of these runs
EXPERIMENT, LONG = "pages", "one-long-run"
WINDOW: ViewportSize = {"width": 1400, "height": 900}
API = ("/ajax-api/", "/api/", "/graphql")
CATEGORIES = ("devtools.timeline", "blink.user_timing", "loading", "toplevel", "disabled-by-default-v8.cpu_profiler")
# `points` are read into the shape that MLflow writes; what was the latest value before is replaced
WRITE = """
BEGIN;
CREATE TEMP TABLE points ON COMMIT DROP AS
SELECT id, key, step, abs(hashint4((i * 31 + step)::int)::float8) / 2147483648 AS value, :began + i * 1000 + step AS at
FROM {points};
INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
SELECT key, value, at, id, step, false FROM points;
DELETE FROM latest_metrics l USING points p WHERE p.id = l.run_uuid AND p.key = l.key AND p.step = :steps - 1;
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
SELECT key, value, at, step, false, id FROM points WHERE step = :steps - 1;
COMMIT;
"""
# FILL has written the first five steps
CHARTED = WRITE.format(
    points="(SELECT i, md5('growth' || i) AS id FROM generate_series(:first, :last) i) r, "
    "(VALUES ('loss'), ('accuracy')) k(key), generate_series(5, :steps - 1) step"
)
# two of its metrics are those of all runs, and come first on its page
LONG_RUN = WRITE.format(
    points="(SELECT i, :'run' AS id, CASE i WHEN 1 THEN 'accuracy' WHEN 2 THEN 'loss' "
    "ELSE 'metric-' || lpad(i::text, 3, '0') END AS key FROM generate_series(1, :metrics) i) r, "
    "generate_series(0, :steps - 1) step"
)
# Before the page's own script: its table shows the metric's column, and its charts all runs. The page stores what it
# was changed to, so this is written at each visit.
PREPARE = """try {
  performance.setResourceTimingBufferSize(5000);
  addEventListener("click", () => { window.clickedAt = performance.now(); }, true);
  localStorage.setItem(%s, %s);
} catch { /* about:blank stores nothing */ }
"""
STATE = {
    "runsHiddenMode": "SHOW_ALL",
    "selectedColumns": ["attributes.`Source`", "attributes.`Models`", "attributes.`Dataset`", "metrics.`loss`"],
}
TABLE = """want => {
  const first = document.querySelector("[row-index='0'] a[href*='/runs/']");
  const rows = document.querySelectorAll("[row-index] a[href*='/runs/']").length;
  const sorted = !want.sorted || document.querySelector(".is-ordered-by [data-testid='sort-header-loss']");
  return Boolean(sorted && first && first.textContent.trim() === want.first && rows >= want.rows) && performance.now();
}"""
CHARTS = """want => {
  const cards = [...document.querySelectorAll("[data-testid='experiment-view-compare-runs-card']")];
  const drawn = cards.every(card => card.querySelectorAll(".scatterlayer .trace").length >= want.lines);
  return cards.length >= want.charts && drawn && performance.now();
}"""
REQUESTS = """() => ["navigation", "resource"].flatMap(kind => performance.getEntriesByType(kind)).map(one => ({
  url: one.name.replace(location.origin, ""), start: one.startTime, first_byte: one.responseStart, end: one.responseEnd,
  ms: one.responseEnd - one.startTime, bytes: one.transferSize,
}))"""


@dataclass(frozen=True)
class Size:
    runs: int
    metrics: int  # of the long run
    steps: int  # of each of these

    @property
    def charted(self) -> int:
        return min(self.runs, FIRST_PAGE)


FEW, MANY = Size(10, 10, 10), Size(100_000, 200, 10_000)


@dataclass
class Side:
    """A project with its content."""

    name: str
    size: Size
    system: Filled

    @contextmanager
    def asked(self) -> Iterator[Asker]:
        """Its API; the project is up."""
        _, engine = self.system.opened()
        with engine.open(MLFLOW, "http") as address:
            yield Asker(address.url, engine.access_token())

    def fill(self) -> None:
        self.system.invoke("up")
        project, engine = self.system.opened()
        database = project.state.active["database"]
        with self.asked() as asker:
            experiment, other = (
                str(asker.api("experiments/create", {"name": name})["experiment_id"]) for name in (EXPERIMENT, LONG)
            )
            words = {"experiment_id": other, "start_time": BEGAN, "run_name": LONG}
            run = asker.api("runs/create", words)["run"]["info"]["run_id"]
            asker.api("runs/update", {"run_id": run, "status": "FINISHED", "end_time": BEGAN + 900})
            sql(engine, database, FILL, experiment=experiment, began=BEGAN, first=1, last=FEW.runs)
            verify(engine, database, asker, experiment)
        last, size = self.size.runs, self.size
        sql(engine, database, BARE)
        sql(engine, database, FILL, experiment=experiment, began=BEGAN, first=FEW.runs + 1, last=last)
        sql(engine, database, CHARTED, began=BEGAN, first=last - size.charted + 1, last=last, steps=CHART_STEPS)
        sql(engine, database, LONG_RUN, began=BEGAN, run=run, metrics=size.metrics, steps=size.steps)
        sql(engine, database, DRESSED)
        sql(engine, database, TIDY)


@dataclass(frozen=True)
class Content:
    """What the pages of a project are asked for, and show."""

    experiment: str
    newest: str  # names of runs
    best: str
    long_experiment: str
    long_run: str

    @classmethod
    def of(cls, asker: Asker) -> Content:
        def number(name: str) -> str:
            path = f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
            return str(asker.ask("GET", path)["experiment"]["experiment_id"])

        def first(experiment: str, order: str) -> dict[str, Any]:
            return dict(asker.search(experiment, order_by=[order])[0]["info"])

        experiment, other = number(EXPERIMENT), number(LONG)
        newest, best = (first(experiment, f"{key} DESC") for key in ("attributes.start_time", "metrics.loss"))
        long_run = first(other, "attributes.start_time DESC")["run_id"]
        return cls(experiment, newest["run_name"], best["run_name"], other, long_run)


@dataclass(frozen=True)
class Visit:
    """An address, and the script that gives the time when it is loaded, else false; ``click``: what is clicked then,
    and the script of what has to follow."""

    path: str
    ready: str
    want: Mapping[str, object]
    click: str = ""
    after: Mapping[str, object] = field(default_factory=dict)


def visits(content: Content, size: Size) -> dict[str, Visit]:
    """The pages by the names of their files."""
    runs = f"#/experiments/{content.experiment}/runs?workflowType=machine_learning"
    rows = {"first": content.newest, "rows": FEW.runs, "sorted": False}
    best = {"first": content.best, "rows": FEW.runs, "sorted": True}
    run = f"#/experiments/{content.long_experiment}/runs/{content.long_run}/model-metrics"
    return {
        "experiment": Visit(runs, TABLE, rows),
        "run": Visit(run, CHARTS, {"charts": 3, "lines": 1}),
        "charts": Visit(f"{runs}&compareRunsMode=CHART", CHARTS, {"charts": 2, "lines": size.charted}),
        "sort": Visit(runs, TABLE, rows, "sort-header-loss", best),
    }


TITLES = {
    "experiment": f"experiment page, {FEW.runs} to {MANY.runs} runs",
    "run": f"run page, {FEW.metrics} metrics of {FEW.steps} steps to {MANY.metrics} of {MANY.steps}",
    "charts": f"chart view, {FEW.charted} to {MANY.charted} runs of {CHART_STEPS} steps",
    "sort": f"sort by a metric by clicking, {FEW.runs} to {MANY.runs} runs",
}


@dataclass(frozen=True)
class Load:
    """Times in ms of the document's own clock; ``requests``: url, start, first_byte, end, ms, bytes."""

    began: float
    ready: float
    requests: list[dict[str, Any]]

    @property
    def took(self) -> float:
        return self.ready - self.began

    @property
    def waited(self) -> float:
        """How long at least one request to MLflow's API was on its way."""
        spans = ((one["start"], one["end"]) for one in self.requests if str(one["url"]).startswith(API))
        return covered(spans, self.began, self.ready)


def covered(spans: Iterable[tuple[float, float]], first: float, last: float) -> float:
    """How much of ``first`` to ``last`` the spans cover together."""
    result, at = 0.0, first
    for start, end in sorted(spans):
        start, end = max(start, at), min(end, last)
        if end > start:
            result, at = result + end - start, end
    return result


def by_script(profile: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds of a CPU profile of V8 by the script's file, most first. What is no script has its name in brackets:
    (program) is Chromium's own work, as layout and drawing."""
    places = {}
    for node in profile["nodes"]:
        frame = node["callFrame"]
        name = frame["url"].partition("?")[0].rpartition("/")[2]
        places[node["id"]] = name or (frame["functionName"] if frame["functionName"][:1] == "(" else "(native)")
    result: dict[str, float] = {}
    for sample, delta in zip(profile["samples"], profile["timeDeltas"], strict=True):
        result[places[sample]] = result.get(places[sample], 0.0) + delta / 1000
    return dict(sorted(result.items(), key=lambda item: -item[1]))


def prepared(experiment: str) -> str:
    """The script before the page's own; names and values as the page writes them."""
    key = f"MLflowLocalStorage-1.1-ExperimentPage-{json.dumps([experiment])}-ReactComponentState"
    return PREPARE % (json.dumps(key), json.dumps(json.dumps(STATE)))


@dataclass
class Tab:
    """A page of a browser profile of its own, for one side."""

    side: Side
    url: str
    visits: Mapping[str, Visit]
    browser: Browser
    page: Page
    devtools: CDPSession

    def load(self, name: str) -> Load:
        visit = self.visits[name]
        self.page.goto("about:blank")  # else only the part after # would change
        self.page.goto(f"{self.url}/{visit.path}", wait_until="commit")
        began, ready = 0.0, self._when(visit.ready, visit.want)
        if visit.click:
            self.page.get_by_test_id(visit.click).click()
            ready = self._when(visit.ready, visit.after)
            began = float(self.page.evaluate("window.clickedAt"))
        return Load(began, ready, self.page.evaluate(REQUESTS))

    def _when(self, script: str, want: Mapping[str, object]) -> float:
        return float(self.page.wait_for_function(script, arg=dict(want)).json_value())

    def profile(self, name: str, folder: Path) -> dict[str, float]:
        """Leaves requests, CPU profile and trace, which Chromium's DevTools open; gives the time by script."""
        start = folder / f"{name}-{self.side.name}"
        self.devtools.send("Profiler.enable")
        self.browser.start_tracing(page=self.page, path=start.with_suffix(".trace.json"), categories=CATEGORIES)
        self.devtools.send("Profiler.start")
        try:
            load = self.load(name)
        finally:
            profile = self.devtools.send("Profiler.stop")["profile"]
            self.browser.stop_tracing()
        start.with_suffix(".cpuprofile").write_text(json.dumps(profile))
        start.with_suffix(".requests.json").write_text(json.dumps(asdict(load), indent=1))
        return by_script(profile)


@contextmanager
def opened(browser: Browser, side: Side) -> Iterator[Tab]:
    with side.asked() as asker:
        content = Content.of(asker)
        url = f"http://{asker.connection.host}:{asker.connection.port}"
        context = browser.new_context(
            viewport=WINDOW,
            extra_http_headers={name: value for name, value in asker.headers.items() if name == "Authorization"},
        )
        context.set_default_timeout(chromium.SLOW)
        context.add_init_script(prepared(content.experiment))
        with chromium.none_refused(context):
            page = context.new_page()
            yield Tab(side, url, visits(content, side.size), browser, page, context.new_cdp_session(page))
            context.close()


def measure(little: Side, much: Side, rounds: int, folder: Path) -> tuple[list[Measure], dict[str, object]]:
    """Rows whose "ours" is the side with much and whose "baseline" the one with little; what the browser was, and its
    time by script."""
    wholes = {name: Measure(title, f"<= {LIMIT} x", "ms", LIMIT) for name, title in TITLES.items()}
    parts = {
        name: Measure(f"{title}: of it waiting for MLflow's server", "-", "ms", math.inf)
        for name, title in TITLES.items()
    }
    scripts: dict[str, object] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with chromium.launched() as browser, ExitStack() as stack:
        few, many = (stack.enter_context(opened(browser, side)) for side in (little, much))
        for number in range(WARM + rounds):
            for name, whole in wholes.items():
                for tab, side in ((few, "other"), (many, "ours")):
                    load = tab.load(name)
                    if number >= WARM:
                        getattr(whole, side).append(load.took)
                        getattr(parts[name], side).append(load.waited)
                    say(f"{name}, {tab.side.name}: {load.took:.0f} ms, waiting for the server {load.waited:.0f} ms")
        for name in wholes:
            for tab in (few, many):
                scripts[f"{name}-{tab.side.name}"] = tab.profile(name, folder)
        version = browser.version
    rows = [row for name in wholes for row in (wholes[name], parts[name])]
    return rows, {"chromium": version, "scripts": scripts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("fill", "measure", "remove"))
    parser.add_argument("--engine", choices=("docker", "embedded"), default="embedded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="", help="of the two projects")
    parser.add_argument("--out", type=Path, default=ROOT / ".nox" / "pages", help="folder of figures and profiles")
    args = parser.parse_args()
    if args.step and not args.folder:
        parser.error("a single step needs --folder=DIR, the same for all")
    if chromium.PROGRAM is None:
        parser.error("no Chromium on this machine (Debian: apt install chromium)")
    folder = Path(args.folder or tempfile.mkdtemp(prefix="trackbed-bench-"))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)  # the services' accounts go through it
    few, many = (
        Side(name, size, Filled(args.engine, folder, f"pages-{name}", port))
        for name, size, port in (("few", FEW, 27250), ("many", MANY, 27260))
    )

    def filled() -> None:
        for side in (few, many):
            side.fill()

    def measured() -> None:
        before = os.getloadavg()
        rows, found = measure(few, many, args.rounds, args.out)
        machine = {
            "cpus": os.cpu_count(),
            "system": platform.platform(),
            "date": time.strftime("%Y-%m-%d"),
            "engine": args.engine,
            "rounds": args.rounds,
            "load": [before, os.getloadavg()],
        }
        result = {"machine": machine, **found, "measures": [asdict(row) for row in rows]}
        (args.out / "pages.json").write_text(json.dumps(result, indent=1))
        print(f"{machine}\n\n{table(rows).replace('| ours | baseline |', '| much | little |', 1)}")

    def removed() -> None:
        for side in (few, many):
            side.system.invoke("down", "--delete-data", "--yes")
        shutil.rmtree(folder)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the projects are taken down
    steps: dict[str, Callable[[], None]] = {"fill": filled, "measure": measured}
    try:
        for name, step in steps.items():
            if args.step in (None, name):
                step()
    finally:
        if args.step in (None, "remove"):
            removed()


if __name__ == "__main__":
    main()
