"""The benchmark of pages: what of a load is the server's, what of it is whose script, and what it asks for."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import pages
from benchmarks.page_sides import FEW, MANY, Content
from benchmarks.page_traces import COLUMNS, IDLE, OTHER, PROCESSOR, WAITING, Load, by_script, covered, split
from benchmarks.pages import TITLES, Times, prepared, report, visits
from tests import chromium


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 0),
        ([(10, 20), (30, 40)], 20),
        ([(30, 40), (10, 20)], 20),  # in whatever order they come
        ([(10, 30), (20, 40), (25, 28)], 30),  # side by side they count once
        ([(-50, 10), (90, 200)], 20),  # only what lies within
        ([(-50, -10), (120, 200)], 0),
    ],
)
def test_requests_side_by_side_count_once(spans: list[tuple[float, float]], expected: float) -> None:
    assert covered(spans, 0, 100) == expected


def test_only_the_api_is_waiting_for_the_server_and_only_since_the_click() -> None:
    requests = [
        {"url": "/static-files/static/js/main.js", "start": 0, "end": 900},
        {"url": "/ajax-api/2.0/mlflow/runs/search", "start": 100, "end": 300},
        {"url": "/graphql", "start": 600, "end": 700},
    ]
    assert Load(0, 1000, requests).waited == 300
    clicked = Load(500, 1000, requests)
    assert (clicked.took, clicked.waited) == (500, 100)


def test_time_by_script_has_files_and_what_is_no_script() -> None:
    def node(number: int, url: str, name: str = "f") -> dict[str, object]:
        return {"id": number, "callFrame": {"url": url, "functionName": name}}

    files = "http://127.0.0.1:1/static-files/static/js"
    nodes = [
        node(1, "", "(idle)"),
        node(2, f"{files}/main.1.js"),
        node(3, f"{files}/main.1.js?again=1", "g"),
        node(4, "", "(program)"),
        node(5, "", "querySelectorAll"),
    ]
    profile = {"nodes": nodes, "samples": [1, 2, 3, 4, 5, 2], "timeDeltas": [9000, 1000, 2000, 4000, 500, 3000]}
    result = by_script(profile)
    assert result == {"(idle)": 9.0, "main.1.js": 6.0, "(program)": 4.0, "(native)": 0.5}
    assert list(result) == sorted(result, key=lambda name: -result[name])


def event(name: str, start: float, end: float, thread: int = 1, **more: object) -> dict[str, object]:
    """In ms; a trace has microseconds."""
    return {"ph": "X", "name": name, "pid": 1, "tid": thread, "ts": start * 1000, "dur": (end - start) * 1000, **more}


def navigation(at: float, url: str) -> dict[str, object]:
    words = {"data": {"documentLoaderURL": url}}
    return {"ph": "R", "name": "navigationStart", "pid": 1, "tid": 1, "ts": at * 1000, "args": words}


TRACE = [
    navigation(500, "about:blank"),
    navigation(1000, "http://127.0.0.1:1/#/experiments/1"),
    event("RunTask", 900, 1010, tdur=110_000),  # began before the load
    event("RunTask", 1100, 1200, tdur=50_000),
    event("FunctionCall", 1110, 1190),
    event("SomethingOfChromium", 1115, 1120),  # within the script's time
    event("Layout", 1120, 1130),
    event("MinorGC", 1140, 1150),
    event("RunTask", 1390, 1500, tdur=110_000),  # ends after the load
    event("PrePaint", 1390, 1500),
    event("FunctionCall", 1600, 1700),
    event("FunctionCall", 1000, 1400, thread=2),
]
ASKED = [
    {"url": "/ajax-api/2.0/mlflow/runs/search", "start": 180, "end": 250, "first_byte": 240, "bytes": 5},
    {"url": "/ajax-api/2.0/mlflow/runs/search", "start": 500, "end": 600, "first_byte": 590, "bytes": 5},
]


def test_a_load_is_split_by_what_the_main_thread_did_and_what_it_waited_for() -> None:
    result = split(TRACE, Load(0, 400, ASKED))
    assert sum(result[column] for column in COLUMNS) == pytest.approx(400)
    expected = {"script": 60, "style and layout": 10, "garbage collection": 10, "paint": 10, OTHER: 30}
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result[WAITING] == pytest.approx(50)  # from 1200, when the script has ended, to 1250
    assert result[IDLE] == pytest.approx(230)
    assert result[PROCESSOR] == pytest.approx(10 + 50 + 10)


def test_a_split_begins_with_the_click() -> None:
    result = split(TRACE, Load(150, 400, ASKED))
    assert sum(result[column] for column in COLUMNS) == pytest.approx(250)
    assert result["script"] == pytest.approx(40)


def test_a_trace_without_the_page_is_no_measurement() -> None:
    with pytest.raises(SystemExit, match="no load"):
        split(TRACE[:1], Load(0, 400, []))


def test_the_report_has_both_sides_of_each_ratio_and_says_what_was_not_measured() -> None:
    times = {name: Times() for name in ("few", "shown", "many")}
    for one, took in zip(times.values(), (100, 190, 200), strict=True):
        one.add(Load(0, took, ASKED[:1]), 0.02)
    text = report({"charts": times}, {"split": {"charts, few": dict.fromkeys((*COLUMNS, PROCESSOR), 1.0)}})
    assert "| 2.00 missed | 1.05 reached | - | - |" in text
    assert "| few | 100 | 0 % | 0 | 0 |" in text  # the request began after the page was loaded
    assert "| many | 200 | 0 % | 20 | 1 | 0.00 | 20 |" in text
    assert "| charts, few | 1 | 1 |" in text


def test_the_state_is_stored_under_the_name_that_the_page_reads() -> None:
    found = re.search(r"Object\.entries\((.+?)\)\)", prepared("7"))
    assert found
    stored = json.loads(found[1])
    name = 'MLflowLocalStorage-1.1-ExperimentPage-["7"]-ReactComponentState'
    assert stored[name]["runsHiddenMode"] == "SHOW_ALL"
    assert stored["mlflow.workflowType_v1"] == "machine_learning"


def test_each_page_is_asked_for_with_what_it_shows() -> None:
    content = Content("7", "growth-100000", "growth-31", "8", "ab12")
    little, much = visits(content, FEW), visits(content, MANY)
    assert list(little) == list(much) == list(TITLES)
    assert {name: visit.path for name, visit in little.items()} == {name: visit.path for name, visit in much.items()}
    assert much["charts"].want["lines"] == 100 and little["charts"].want["lines"] == 10
    assert much["run"].path == "#/experiments/8/runs/ab12/model-metrics"
    sort = much["sort"]
    assert (sort.want["first"], sort.after["first"]) == ("growth-100000", "growth-31")


@pytest.mark.parametrize(
    ("words", "program", "said"),
    [(["fill"], "/usr/bin/chromium", "--folder"), ([], None, "apt install chromium")],
)
def test_what_is_missing_is_said_before_anything_starts(
    words: list[str],
    program: str | None,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["pages", *words])
    monkeypatch.setattr(chromium, "PROGRAM", program)
    with pytest.raises(SystemExit, match="2"):
        pages.main()
    assert said in capsys.readouterr().err
