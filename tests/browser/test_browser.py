"""MLflow's own pages as a user sees them, in headless Chromium.

TRACKBED_SCREENSHOTS=FOLDER keeps pictures; TRACKBED_REQUIRE_BROWSER=1 fails where there is no Chromium.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.chromium import SLOW, create_experiment, none_refused, recorded, rename_run

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Shot = Callable[[Page, str], None]

DIRECT = build_opener(ProxyHandler({}))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a new profile; at the end no request may have been refused or have met a server error."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SLOW)
    with none_refused(context):
        yield context.new_page()
        context.close()


@pytest.fixture
def shot(engine: str) -> Shot:
    """Keep a picture where someone asked for them."""

    def take(page: Page, name: str) -> None:
        folder = os.environ.get("TRACKBED_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{engine}-{name}.png")

    return take


@pytest.fixture
def mlflow_url(invoke_run: Run) -> str:
    done = invoke_run("status", "--format=env")
    assert done.returncode == 0, done.stderr
    values = dict(word.split("=", 1) for word in shlex.split(done.stdout) if "=" in word)
    return values["MLFLOW_TRACKING_URI"].rstrip("/")


def post(url: str, body: object) -> dict[str, Any]:
    """A call that needs no browser."""
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with DIRECT.open(request, timeout=30) as answer:
        return dict(json.load(answer))


def test_mlflow_writes_through_its_own_pages(page: Page, shot: Shot, mlflow_url: str) -> None:
    """POSTs from the UI's own origin: MLflow refuses them unless that origin is allowed."""
    name = f"from-the-browser-{uuid.uuid4().hex[:6]}"
    experiment = create_experiment(page, mlflow_url, name, lambda: shot(page, "mlflow-experiments"))
    answer = post(f"{mlflow_url}/api/2.0/mlflow/runs/create", {"experiment_id": experiment, "run_name": "before"})
    run = answer["run"]["info"]["run_id"]
    page.goto(f"{mlflow_url}/#/experiments/{experiment}/runs/{run}")
    rename_run(page, "renamed-in-the-browser")
    shot(page, "mlflow-renamed-run")


def test_a_first_visit_shows_runs_and_nothing_in_front_of_them(
    browser: Browser, page: Page, shot: Shot, mlflow_url: str
) -> None:
    """MLflow's own default: its GenAI mode, the assistant's panel open, a banner of telemetry that is off here."""
    name = f"first-{uuid.uuid4().hex[:6]}"
    api = f"{mlflow_url}/api/2.0/mlflow"
    number = str(post(f"{api}/experiments/create", {"name": name})["experiment_id"])
    now = int(time.time() * 1000)
    run = post(f"{api}/runs/create", {"experiment_id": number, "run_name": "the-run", "start_time": now})["run"]["info"]

    def nothing_in_front(seen: Page) -> None:
        seen.wait_for_timeout(1000)  # the panel opens after the page
        expect(seen.get_by_role("dialog")).to_have_count(0)
        expect(seen.locator("[data-component-id^='mlflow.assistant.chat_panel']")).to_have_count(0)
        expect(seen.get_by_text("Information about UI telemetry")).to_have_count(0)

    own = f"#/experiments/{number}"
    for path, text, picture in (
        ("", name, "root"),
        ("#/experiments", name, "list"),
        (own, "the-run", "experiment"),
        (f"{own}/runs/{run['run_id']}", "the-run", "run"),
    ):
        # each the first visit of a browser
        context = recorded(browser.new_context(viewport={"width": 1400, "height": 900}))
        first = context.new_page()
        first.goto(f"{mlflow_url}/{path}")
        expect(first.get_by_text(text, exact=True).first).to_be_visible(timeout=SLOW)
        nothing_in_front(first)
        shot(first, f"mlflow-first-{picture}")
        context.close()

    page.goto(f"{mlflow_url}/{own}")
    expect(page.get_by_text("the-run", exact=True).first).to_be_visible(timeout=SLOW)  # a click before it is lost
    page.get_by_text("GenAI", exact=True).first.click()  # a person's own choice stays
    page.wait_for_url(re.compile("workflowType=genai"), wait_until="commit")
    page.goto("about:blank")
    page.goto(f"{mlflow_url}/{own}")
    page.wait_for_url(re.compile(rf"/experiments/{number}/.*workflowType=genai"), wait_until="commit")

    etag = DIRECT.open(f"{mlflow_url}/", timeout=30).headers["ETag"]
    with pytest.raises(HTTPError, match="304"):
        DIRECT.open(Request(f"{mlflow_url}/", headers={"If-None-Match": etag}), timeout=30)


@pytest.fixture
def experiment(mlflow_url: str) -> tuple[str, str, list[str]]:
    """Its number, its name and its two runs; the first one has a file and the folder of a model."""
    name = f"buttons-{uuid.uuid4().hex[:6]}"
    api = f"{mlflow_url}/api/2.0/mlflow"
    number = str(post(f"{api}/experiments/create", {"name": name})["experiment_id"])
    runs = []
    for run in ("one", "two"):
        now = int(time.time() * 1000)
        created = post(f"{api}/runs/create", {"experiment_id": number, "run_name": run, "start_time": now})["run"][
            "info"
        ]
        runs.append(created["run_id"])
        post(f"{api}/runs/log-metric", {"run_id": runs[-1], "key": "loss", "value": 0.5, "timestamp": now})
        post(f"{api}/runs/update", {"run_id": runs[-1], "status": "FINISHED"})
    artifacts = f"{mlflow_url}/api/2.0/mlflow-artifacts/artifacts/{number}/{runs[0]}/artifacts"
    for path, content in (("a.txt", b"hello"), ("model/MLmodel", b"artifact_path: model\nflavors: {}\n")):
        DIRECT.open(Request(f"{artifacts}/{path}", content, method="PUT"), timeout=30).close()
    return number, name, runs


def test_a_file_of_the_page_that_did_not_arrive_is_asked_for_again(
    page: Page, mlflow_url: str, experiment: tuple[str, str, list[str]]
) -> None:
    """MLflow's page asks once, and shows an error in place of everything where a single file is missing."""
    number, _, runs = experiment
    address = f"{mlflow_url}/#/experiments/{number}/runs/{runs[0]}"
    dropped: set[str] = set()

    def drop_once(route: Route) -> None:
        if route.request.url in dropped:
            route.continue_()
        else:
            dropped.add(route.request.url)
            route.abort("connectionreset")

    files = re.compile(r"/static-files/static/\S+\.(js|css)$")
    page.route(files, drop_once)
    page.goto(address)
    expect(page.get_by_text("one", exact=True).first).to_be_visible(timeout=SLOW)
    for kind in (r"/main\.\w+\.js$", r"/main\.\w+\.css$", r"\.chunk\.js$", r"\.chunk\.css$"):
        assert any(re.search(kind, url) for url in dropped), (kind, dropped)
    page.unroute(files)

    page.route(re.compile(r"\.chunk\.css$"), lambda route: route.abort("connectionreset"))  # not for ever
    page.goto("about:blank")
    page.goto(address)
    expect(page.get_by_text("Something went wrong")).to_be_visible(timeout=SLOW)


def test_the_download_button_gives_the_file_and_the_page_stays(
    page: Page, shot: Shot, mlflow_url: str, experiment: tuple[str, str, list[str]]
) -> None:
    """A browser does not reach the object store, whatever the server offers to the notebook."""
    number, _, runs = experiment
    address = f"{mlflow_url}/#/experiments/{number}/runs/{runs[0]}/artifacts/a.txt"
    page.goto(address)
    page.get_by_text("hello").first.wait_for()
    with page.expect_download() as started:
        page.locator("[data-component-id$='artifactview.tsx_337']").first.click()
    assert started.value.suggested_filename == "a.txt" and Path(started.value.path()).read_bytes() == b"hello"
    assert page.url == address
    shot(page, "mlflow-download")


def test_each_of_a_hundred_runs_can_be_reached_sorted_chosen_and_opened(
    page: Page, shot: Shot, mlflow_url: str
) -> None:
    """The fast path's table makes rows while a person scrolls; MLflow's page asks for a hundred runs at once."""
    api = f"{mlflow_url}/api/2.0/mlflow"
    number = str(post(f"{api}/experiments/create", {"name": f"hundred-{uuid.uuid4().hex[:6]}"})["experiment_id"])
    oldest = ""
    for i in range(100):  # the newest is the first row; run-050 has the lowest loss
        tags = [{"key": "mlflow.parentRunId", "value": oldest}] if i == 1 else []
        words = {"experiment_id": number, "run_name": f"run-{i:03}", "start_time": 10**12 + i, "tags": tags}
        run = str(post(f"{api}/runs/create", words)["run"]["info"]["run_id"])
        post(f"{api}/runs/log-metric", {"run_id": run, "key": "loss", "value": abs(i - 50.4), "timestamp": 1})
        oldest = oldest or run
    key = f"MLflowLocalStorage-1.1-ExperimentPage-{json.dumps([number])}-ReactComponentState"
    state = json.dumps({"selectedColumns": ["metrics.`loss`"]})
    page.add_init_script(f"try {{ localStorage[{json.dumps(key)}] ??= {json.dumps(state)}; }} catch {{}}")
    address = f"{mlflow_url}/#/experiments/{number}/runs?workflowType=machine_learning"
    page.goto(address)
    table, rows = page.locator(".ag-body-viewport"), page.locator("[row-index] a[href*='/runs/']")
    selected = page.locator(".ag-row-selected a[href*='/runs/']")

    def name(row: int) -> Locator:
        return page.locator(f"[row-index='{row}'] a[href*='/runs/']")

    def scroll(to: str) -> None:
        table.evaluate(f"table => {{ table.scrollTop = {to}; }}")

    def choose(row: int) -> None:
        page.locator(f"[row-index='{row}'] .ag-selection-checkbox input").click(force=True)  # below its own drawing

    expect(name(0)).to_have_text("run-099")
    expect(name(9)).to_have_text("run-090")  # it is in the window, too
    assert 10 <= rows.count() <= 50, "the table makes all rows at once: trackbed_mlflow/fast_path/runs_table.py"
    scroll("table.scrollHeight")
    expect(name(98)).to_have_text("run-000")  # its child is folded away
    page.locator("[row-index='98'] button").first.click()
    scroll("table.scrollHeight")
    expect(name(99)).to_have_text("run-001")
    expect(name(99)).to_be_in_viewport()
    shot(page, "mlflow-hundred-scrolled")
    choose(99)
    for part in range(9, -1, -1):  # each row is there when it is scrolled to
        scroll(f"table.scrollHeight * {part} / 10")
        expect(name(part * 10)).to_have_text(f"run-{99 - part * 10:03}")
    choose(0)
    page.get_by_test_id("sort-header-loss").click()
    expect(name(0)).to_have_text("run-000")  # the highest loss
    expect(name(2)).to_have_text("run-099")
    expect(selected).to_have_count(2)
    scroll("table.scrollHeight")
    expect(name(99)).to_have_text("run-050")
    page.get_by_test_id("runs-compare-button").click()
    expect(page.get_by_text("Comparing 2 Runs").first).to_be_visible()


def test_compare_delete_restore_and_register(
    page: Page, shot: Shot, mlflow_url: str, experiment: tuple[str, str, list[str]]
) -> None:
    number, name, runs = experiment
    every = f"{mlflow_url}/#/experiments/{number}/runs?workflowType=machine_learning"

    def choose_all(address: str) -> None:
        page.goto("about:blank")
        page.goto(address)
        page.get_by_text("two", exact=True).first.wait_for()
        page.get_by_label("Select all runs").first.click(force=True)  # a checkbox below its own drawing

    choose_all(every)
    expect(page.get_by_text("switched off")).to_have_count(0)  # no complaint about what nobody asked for
    page.get_by_test_id("runs-compare-button").click()
    page.wait_for_url(re.compile(r"/compare-runs\?"))
    expect(page.get_by_text("Comparing 2 Runs").first).to_be_visible()
    shot(page, "mlflow-compare")

    def kept() -> list[str]:
        result = post(f"{mlflow_url}/api/2.0/mlflow/runs/search", {"experiment_ids": [number]}).get("runs", [])
        return sorted(run["info"]["run_id"] for run in result)

    choose_all(every)
    page.get_by_test_id("runs-delete-button").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("0 matching runs")).to_be_visible()
    assert not kept()
    choose_all(f"{every}&lifecycleFilter=Deleted")
    page.get_by_test_id("runs-restore-button").click()
    page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    expect(page.get_by_text("0 matching runs")).to_be_visible()
    assert kept() == sorted(runs)

    page.goto("about:blank")
    page.goto(f"{mlflow_url}/#/experiments/{number}/runs/{runs[0]}/artifacts/model")
    page.get_by_role("button", name="Register model").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").first.click()
    page.keyboard.press("Enter")  # the first choice: a new model
    dialog.get_by_placeholder("Input a model name").fill(name)
    with page.expect_response(re.compile(r"/model-versions/create$")) as registered:
        dialog.get_by_role("button", name="Register").click()
    assert registered.value.status == 200, registered.value.text()
    shot(page, "mlflow-registered")
