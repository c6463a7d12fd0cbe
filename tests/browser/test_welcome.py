"""JupyterLab as its first visitor finds it: the welcome notebook, run through from the menu.

TRACKBED_SCREENSHOTS=FOLDER keeps a picture; TRACKBED_REQUIRE_BROWSER=1 fails where there is no Chromium.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.chromium import SLOW, none_refused
from tests.conftest import Clone


def test_the_welcome_notebook_runs_through(browser: Browser, deployment: Clone, engine: str) -> None:
    deployment.value("examples")  # also where an earlier test has deleted it
    address = deployment.value("jupyter-url").replace("/lab?", "/lab/tree/welcome.ipynb?")
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SLOW)
    with none_refused(context):
        page = context.new_page()
        page.goto(f"{address}&reset")
        notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
        expect(notebook.get_by_role("heading", name="Welcome")).to_be_visible(timeout=SLOW)
        for name in ("examples", "welcome.ipynb"):
            expect(page.locator(".jp-DirListing-item", has_text=name).first).to_be_visible(timeout=SLOW)
        # cells that are run before their kernel is there are not run at all
        expect(page.get_by_text(re.compile(r"\| Idle$"))).to_be_visible(timeout=SLOW)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        link = notebook.locator(".jp-OutputArea-output a", has_text="/runs/").first
        link.wait_for(timeout=2 * SLOW)
        expect(notebook.get_by_role("columnheader", name="tags.mlflow.runName")).to_be_visible(timeout=2 * SLOW)
        assert notebook.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() <= 1
        expect(page.get_by_text("Jupyter news")).to_have_count(0)
        link.scroll_into_view_if_needed()
        if folder := os.environ.get("TRACKBED_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{engine}-welcome.png")
        page.goto(link.get_attribute("href") or "")
        expect(page.get_by_text("my first run").first).to_be_visible(timeout=SLOW)
        context.close()
