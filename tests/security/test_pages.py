"""The pages behind the gateway in headless Chromium, which sits outside, as a colleague's browser does."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.chromium import SLOW, create_experiment, launched, none_refused, rename_run
from tests.security.conftest import Target

pytestmark = pytest.mark.docker


@pytest.fixture
def page(attack: Target) -> Iterator[Page]:
    """A page with ann's login; at the end no request may have been refused. Its driver starts outside, so it is there.

    The certificate is looked at by other tests: Chromium on Linux has a store of its own that is not ours to change.
    """
    with launched() as chromium:
        context = chromium.new_context(
            viewport={"width": 1400, "height": 900},
            ignore_https_errors=True,
            http_credentials={"username": attack.user, "password": attack.password},
        )
        context.set_default_timeout(SLOW)
        with none_refused(context, (403, 421, 429)):
            yield context.new_page()
            context.close()


def shot(page: Page, name: str) -> None:
    """Keep a picture where someone asked for them."""
    if folder := os.environ.get("TRACKBED_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"public-{name}.png")


def test_mlflow_writes_and_shows_through_the_gateway(attack: Target, page: Page) -> None:
    """An experiment made, a run renamed, an artifact's text looked at: POSTs from the UI's own origin included."""
    door, name = attack.door("mlflow"), f"public-{uuid.uuid4().hex[:6]}"
    experiment = create_experiment(page, f"https://{door.host}", name)
    answer = door.json("/api/2.0/mlflow/runs/create", {"experiment_id": experiment, "run_name": "before"}, attack.login)
    info = json.loads(answer.body)["run"]["info"]
    path = info["artifact_uri"].removeprefix("mlflow-artifacts:").lstrip("/")
    put = door.ask(
        f"/api/2.0/mlflow-artifacts/artifacts/{path}/hello.txt", "PUT", attack.login, b"seen through the gateway"
    )
    assert put.status == 200, put.text
    page.goto(f"https://{door.host}/#/experiments/{experiment}/runs/{info['run_id']}")
    rename_run(page, "renamed-outside")
    page.goto("about:blank")
    page.goto(f"https://{door.host}/#/experiments/{experiment}/runs/{info['run_id']}/artifacts/hello.txt")
    expect(page.get_by_text("seen through the gateway").first).to_be_visible(timeout=SLOW)
    shot(page, "artifact")


def test_a_notebook_runs_through_the_gateway(attack: Target, page: Page) -> None:
    """JupyterLab with its token: pages, WebSockets of a kernel, and a run whose printed link opens."""
    page.goto(f"https://{attack.door('jupyter').host}/lab?token={attack.token}&reset")
    page.locator(".jp-LauncherCard[data-category='Notebook']").first.click()
    name = f"outside-{uuid.uuid4().hex[:6]}"
    page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell .cm-content").first.click()
    expect(page.get_by_text(re.compile(r"\| Idle$"))).to_be_visible(timeout=SLOW)
    page.keyboard.insert_text(f"import mlflow; run = mlflow.start_run(run_name='{name}'); mlflow.end_run()")
    page.keyboard.press("Shift+Enter")
    link = page.locator(".jp-OutputArea-output a", has_text="/runs/").first
    link.wait_for(timeout=2 * SLOW)
    target = link.get_attribute("href") or ""
    assert target.startswith(f"https://{attack.door('mlflow').host}/"), target
    page.goto(target)
    expect(page.get_by_text(name).first).to_be_visible(timeout=SLOW)
    shot(page, "linked-run")


def test_the_start_page_is_everybodys_with_a_login_and_shows_nobody_a_token(attack: Target, page: Page) -> None:
    """The link that `up` printed has none; the page names who looks, and no path, other login or secret."""
    door = attack.door("mlflow")
    assert door.ask("/start").status == 401 and door.ask("/start.json").status == 401
    forged = {**attack.login, "Host": "evil.example"}
    assert door.ask("/start", headers=forged).status == 421
    sent = door.ask(f"/start?token={attack.token}", headers=attack.login)
    assert sent.status == 200 and "set-cookie" not in str(sent.headers).lower() and attack.token not in sent.text
    page.goto(f"https://{door.host}/start")
    expect(page.get_by_role("row").filter(has_text="gateway").get_by_text("ready")).to_be_visible()
    for service in ("PostgreSQL", "VersityGW", "JupyterLab"):
        expect(page.get_by_role("row").filter(has_text=service).get_by_text("ready")).to_be_visible()
    text = page.content()
    assert "MLFLOW_TRACKING_USERNAME=ann" in text and "BEGIN CERTIFICATE" in text
    assert str(attack.clone.state) not in text and "workspace" not in text
    page.set_viewport_size({"width": 1100, "height": 900})
    shot(page, "start")
    lab = page.get_by_role("link", name="JupyterLab", exact=True).get_attribute("href")
    assert lab == f"https://{attack.door('jupyter').host}/lab"
