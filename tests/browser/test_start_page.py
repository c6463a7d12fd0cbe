"""The start page in headless Chromium: one link, no script, light, dark and on a telephone's width."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.chromium import SLOW, none_refused
from tests.conftest import Clone


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 360)])
def test_one_link_leads_to_everything_without_a_script(
    browser: Browser, deployment: Clone, scheme: str, width: int
) -> None:
    link = deployment.value("open")
    assert link.startswith(f"{deployment.url('mlflow')}/start?token=")
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        java_script_enabled=False,
    )
    context.set_default_timeout(SLOW)
    with none_refused(context, (401, 403, 404)):
        page = context.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(link)
        assert page.url == f"{deployment.url('mlflow')}/start"  # no token stays in the address
        expect(page.get_by_role("heading", level=1)).to_have_text(deployment.project)
        services = {name for name, one in deployment.services().items() if one["state"] == "ready"}
        for name in services:
            cells = page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True))
            expect(cells.get_by_role("cell", name="ready")).to_be_visible()
        assert services >= {"postgres", "mlflow", "jupyter"}
        if folder := os.environ.get("TRACKBED_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{deployment.engine}-start-{scheme}-{width}.png", full_page=True)
        box = page.locator("html").bounding_box()
        assert box and box["width"] <= width  # nothing is cut off or scrolls sideways
        links = page.get_by_role("navigation", name="Open").get_by_role("link")
        expect(links).to_have_count(2 + (deployment.engine == "docker"))  # the embedded engine has no store
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        for name in ("JupyterLab", "MLflow"):
            address = page.get_by_role("link", name=name, exact=True).get_attribute("href")
            answer = context.request.get(
                f"{page.url.removesuffix('/start')}{address}" if name == "MLflow" else address or ""
            )
            assert answer.status == 200 and "/login" not in answer.url, name
        assert not complaints
    context.close()
