"""How long MLflow's pages take in a browser with little and with much on them, in turns, in headless Chromium.

    python -m benchmarks.pages [--rounds=5] [--engine=docker]
    python -m benchmarks.pages fill --folder=DIR; … measure --folder=DIR; … remove --folder=DIR

Three sides, in two projects of its own. `few`: 10 runs, and a run with 10 metrics of 10 steps. `many`: 10^5 runs, and a
run with 200 metrics of 10^4 steps. `shown`: only what MLflow's pages show of `many`, which are 100 runs, and a run with
200 metrics of 320 steps. On the embedded engine plain MLflow (`mlflow server`) serves the same data beside ours.

Each page has been visited before, so its files are in the browser's cache. It is loaded when what a person came for is
drawn: ten rows of the table, or each line of each chart in the window.

One round more goes with Chromium's trace, and one with its profiler. Both stay in the output folder, and their times
do not count. With --folder the data stay: `measure` may be repeated, and brings the projects up where they are down.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, ViewportSize

from benchmarks import steps
from benchmarks.backup import Filled
from benchmarks.page_sides import CHART_STEPS, FEW, FIRST_PAGE, MANY, SHOWN, Content, Side, Size
from benchmarks.page_traces import CATEGORIES, COLUMNS, PROCESSOR, Load, by_script, split
from benchmarks.systems import say
from helpers.clone import MLFLOW_FOLDER, ROOT
from tests import chromium

LIMIT = 1.1
WARM = 2  # rounds that fill the browser's caches
PLAIN = "plain "  # before the name of a side: MLflow's own server over its data
WINDOW: ViewportSize = {"width": 1400, "height": 900}
# what is divided by what, and whether the goal is for it
RATIOS = {
    "many / few": ("many", "few", LIMIT),
    "many / shown": ("many", "shown", LIMIT),
    "plain MLflow, many / few": ("plain many", "plain few", 0.0),
    "many, ours / plain MLflow": ("many", "plain many", 0.0),
}
# Before the page's own script: its table shows the metric's column, and its charts all runs. The page stores what it
# was changed to, so this is written at each visit.
PREPARE = """try {
  performance.setResourceTimingBufferSize(5000);
  addEventListener("click", () => { window.clickedAt = performance.now(); }, true);
  for (const [key, value] of Object.entries(%s)) localStorage.setItem(key, JSON.stringify(value));
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
    "experiment": "experiment page",
    "run": "run page",
    "charts": f"chart view, up to {FIRST_PAGE} runs of {CHART_STEPS} steps",
    "sort": "sort by clicking on a metric",
}


def prepared(experiment: str) -> str:
    """The script before the page's own; names and values as the page writes them."""
    sys.path.insert(0, str(MLFLOW_FOLDER))
    from trackbed_mlflow.ui_defaults import DEFAULTS  # plain MLflow shows the same page

    key = f"MLflowLocalStorage-1.1-ExperimentPage-{json.dumps([experiment])}-ReactComponentState"
    return PREPARE % json.dumps({**DEFAULTS, key: STATE})


@dataclass
class Tab:
    """A page of a browser profile of its own, for one side."""

    name: str
    side: Side
    url: str
    visits: Mapping[str, Visit]
    browser: Browser
    page: Page
    devtools: CDPSession

    def load(self, name: str) -> Load:
        """Leaves an empty page, which does nothing while another one is loaded."""
        load = self._visited(name)
        self.page.goto("about:blank")
        return load

    def _visited(self, name: str) -> Load:
        visit = self.visits[name]
        self.page.goto(f"{self.url}/{visit.path}", wait_until="commit")
        began, ready = 0.0, self._when(visit.ready, visit.want)
        if visit.click:
            self.page.get_by_test_id(visit.click).click()
            ready = self._when(visit.ready, visit.after)
            began = float(self.page.evaluate("window.clickedAt"))
        return Load(began, ready, self.page.evaluate(REQUESTS))

    def _when(self, script: str, want: Mapping[str, object]) -> float:
        return float(self.page.wait_for_function(script, arg=dict(want)).json_value())

    def traced(self, name: str, start: Path) -> dict[str, float]:
        """Leaves requests and a trace, which Chromium's DevTools open; gives the load by kinds of work."""
        self.browser.start_tracing(page=self.page, categories=list(CATEGORIES))
        try:
            load = self.load(name)
        finally:
            trace = self.browser.stop_tracing()
        start.with_suffix(".trace.json.gz").write_bytes(gzip.compress(trace, 3))
        start.with_suffix(".requests.json").write_text(json.dumps(asdict(load), indent=1))
        return split(json.loads(trace)["traceEvents"], load)

    def profiled(self, name: str, start: Path) -> dict[str, float]:
        """Leaves a CPU profile, which Chromium's DevTools open; gives the time by script, before a click too."""
        self.page.goto(f"{self.url}/health")  # the profiler is of one process: a page of the same origin stays in it
        self.devtools.send("Profiler.enable")
        self.devtools.send("Profiler.start")
        try:
            self._visited(name)
        finally:
            profile = self.devtools.send("Profiler.stop")["profile"]
            self.devtools.send("Profiler.disable")
            self.page.goto("about:blank")
        start.with_suffix(".cpuprofile").write_text(json.dumps(profile))
        return by_script(profile)


@contextmanager
def opened(browser: Browser, side: Side, plain: bool) -> Iterator[Tab]:
    with ExitStack() as stack:
        asker = stack.enter_context(side.asked())
        content = Content.of(side, asker)
        url = stack.enter_context(side.plain()) if plain else f"http://{asker.connection.host}:{asker.connection.port}"
        context = browser.new_context(
            viewport=WINDOW,
            extra_http_headers={name: value for name, value in asker.headers.items() if name == "Authorization"},
        )
        context.set_default_timeout(chromium.SLOW)
        context.add_init_script(prepared(content.experiment))
        stack.enter_context(chromium.none_refused(context))
        page = context.new_page()
        name = f"{PLAIN if plain else ''}{side.name}"
        yield Tab(name, side, url, visits(content, side.size), browser, page, context.new_cdp_session(page))
        context.close()


@dataclass
class Times:
    """Of one page on one tab, a figure of each round; ms where nothing else is said."""

    took: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    transferred: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    bytes: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)  # processor time

    def add(self, load: Load, server: float) -> None:
        self.took.append(load.took)
        self.waited.append(load.waited)
        self.transferred.append(load.transferred)
        self.requests.append(len(load.asked))
        self.bytes.append(sum(one["bytes"] for one in load.asked))
        self.server.append(server * 1000)


Found = dict[str, dict[str, Times]]  # by page, by tab


def measure(sides: list[Side], plain: list[Side], rounds: int, folder: Path) -> tuple[Found, dict[str, Any]]:
    """The times; and Chromium's version, the load by kinds of work, and the browser's time by script."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium.launched() as browser, ExitStack() as stack:
        tabs = [stack.enter_context(opened(browser, side, False)) for side in sides]
        tabs += [stack.enter_context(opened(browser, side, True)) for side in plain]
        found: Found = {name: {tab.name: Times() for tab in tabs} for name in TITLES}
        for number in range(WARM + rounds):
            for name in TITLES:
                for tab in tabs:
                    before = tab.side.seconds()
                    load = tab.load(name)
                    server = tab.side.seconds() - before
                    if number >= WARM:
                        found[name][tab.name].add(load, server)
                    say(f"{name}, {tab.name}: {load.took:.0f} ms, waiting for the server {load.waited:.0f} ms")
        more: dict[str, Any] = {"chromium": browser.version, "split": {}, "scripts": {}}
        for name in TITLES:
            for tab in tabs:
                start, key = folder / f"{name}-{tab.name.replace(' ', '-')}", f"{name}, {tab.name}"
                more["split"][key] = tab.traced(name, start)
                more["scripts"][key] = tab.profiled(name, start)
    return found, more


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def lined(*head: str) -> list[str]:
    return [row(*head), row(*["---"] * len(head))]


def ratio(times: Mapping[str, Times], one: str, other: str) -> float | None:
    """None where a side was not measured."""
    if one not in times or other not in times:
        return None
    return statistics.median(times[one].took) / statistics.median(times[other].took)


def report(found: Found, more: Mapping[str, Any]) -> str:
    """Three tables: the times, the ratios, and what the times were."""
    middle = statistics.median
    lines = lined(
        "page", "side", "ms", "spread", "an API request on its way", "requests", "MB", "server's processor ms"
    )
    for name, times in found.items():
        for tab, one in times.items():
            took = middle(one.took)
            spread = f"{max(abs(each - took) for each in one.took) / took * 100:.0f} %"
            rest = (f"{middle(one.waited):.0f}", f"{middle(one.requests):.0f}", f"{middle(one.bytes) / 1e6:.2f}")
            lines.append(row(TITLES[name], tab, f"{took:.0f}", spread, *rest, f"{middle(one.server):.0f}"))
    lines += [
        "",
        *lined("page", *(f"{title} (goal {limit})" if limit else title for title, (_, _, limit) in RATIOS.items())),
    ]
    for name, times in found.items():
        cells = []
        for numerator, denominator, limit in RATIOS.values():
            value = ratio(times, numerator, denominator)
            verdict = "" if not limit or value is None else " reached" if value <= limit else " missed"
            cells.append("-" if value is None else f"{value:.2f}{verdict}")
        lines.append(row(TITLES[name], *cells))
    lines += ["", *lined("one traced load, ms", *COLUMNS, PROCESSOR)]
    lines += [row(key, *(f"{value:.0f}" for value in parts.values())) for key, parts in more["split"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("fill", "measure", "remove"))
    parser.add_argument("--engine", choices=("docker", "embedded"), default="embedded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="", help="of the two projects, which stay there between steps")
    parser.add_argument("--out", type=Path, default=ROOT / ".nox" / "pages", help="folder of figures and profiles")
    args = parser.parse_args()
    if chromium.PROGRAM is None:
        parser.error("no Chromium on this machine (Debian: apt install chromium)")
    folder = steps.folder(parser, args)
    little, much = (
        Filled(args.engine, folder, f"pages-{name}", port) for name, port in (("few", 27250), ("many", 27260))
    )
    few, many = Side("few", FEW, little), Side("many", MANY, much)
    sides = [few, Side("shown", SHOWN, little, first=1001), many]

    def filled() -> None:
        for side in sides:
            side.fill()

    def measured() -> None:
        for system in (little, much):
            system.invoke("up")
        before = os.getloadavg()
        found, more = measure(sides, [few, many] if args.engine == "embedded" else [], args.rounds, args.out)
        machine = steps.machine(args, before)
        times = {name: {tab: asdict(one) for tab, one in of.items()} for name, of in found.items()}
        (args.out / "pages.json").write_text(json.dumps({"machine": machine, **more, "times": times}, indent=1))
        result = f"{machine}\n\n{report(found, more)}\n"
        (args.out / "pages.md").write_text(result)
        print(result)

    steps.run(args.step, {"fill": filled, "measure": measured}, (little, much), folder)


if __name__ == "__main__":
    main()
