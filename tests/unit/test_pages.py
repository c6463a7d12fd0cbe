"""The benchmark of pages: what of a load is the server's, what of it is whose script, and what it asks for."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks import pages
from benchmarks.pages import FEW, MANY, TITLES, Content, Load, by_script, covered, prepared, visits
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


def test_the_state_is_stored_under_the_name_that_the_page_reads() -> None:
    call = re.search(r"localStorage\.setItem\((.+)\);", prepared("7"))
    assert call
    name, value = json.loads(f"[{call[1]}]")
    assert name == 'MLflowLocalStorage-1.1-ExperimentPage-["7"]-ReactComponentState'
    assert json.loads(value)["runsHiddenMode"] == "SHOW_ALL"


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
