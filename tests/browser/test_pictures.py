"""The pictures of the README: the cell of docs/notebook.md in JupyterLab, and the page of its run.

TRACKBED_SCREENSHOTS=docs/images writes them there; without it the same way is walked and nothing is written.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.chromium import SLOW, none_refused
from tests.conftest import Clone
from tests.integration.workload import Lab

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notebook.md"
NAME = "first-run.ipynb"


def first_cell() -> str:
    return str(re.findall(r"```python\n(.*?)\n```", PAGE.read_text(), re.DOTALL)[0])


def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("TRACKBED_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("engine", ["embedded"], indirect=True, scope="session")
def test_the_first_cell_and_its_run(browser: Browser, deployment: Clone) -> None:
    link = deployment.value("jupyter-url")
    lab = Lab(link)
    cell: dict[str, Any] = {
        "cell_type": "code",
        "metadata": {},
        "source": first_cell(),
        "outputs": [],
        "execution_count": None,
    }
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
    lab.upload(NAME, {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    context = browser.new_context(viewport={"width": 1200, "height": 620})
    context.set_default_timeout(SLOW)
    try:
        with none_refused(context):
            page = context.new_page()
            page.goto(f"{link.replace('/lab?', f'/lab/tree/{NAME}?')}&reset")
            page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell .cm-content").first.click()
            # a cell that is run before its kernel is there is not run at all
            expect(page.get_by_text(re.compile(r"\| Idle$"))).to_be_visible(timeout=SLOW)
            page.keyboard.press("Shift+Enter")
            run = page.locator(".jp-OutputArea-output a", has_text="/runs/").first
            run.wait_for(timeout=2 * SLOW)
            expect(page.get_by_text(re.compile(r"\| Idle$"))).to_be_visible(timeout=SLOW)
            keep(page, "jupyterlab")
            page.goto(run.get_attribute("href") or "")
            page.get_by_role("tab", name="Model metrics").click()
            expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible(timeout=SLOW)
            expect(page.get_by_text("first-steps").first).to_be_visible()
            keep(page, "mlflow")
            context.close()
    finally:
        lab.delete(NAME)
