"""Pages of a real browser, what went wrong on them, and what they were refused."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, TimeoutError, expect, sync_playwright

from tests.integration import inspection

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
SLOW = 120_000  # ms: a cold JupyterLab on a small machine, with other suites beside it
# Chromium cancels requests that wait for a connection when an address of the machine comes or goes, also those to
# 127.0.0.1: a container that starts beside the tests is enough.
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
events: list[str] = []  # what went wrong on pages since the test began


@contextmanager
def launched() -> Iterator[Browser]:
    """Headless Chromium; skipped loudly where there is none, or failed with TRACKBED_REQUIRE_BROWSER=1."""
    if PROGRAM is None:
        if os.environ.get("TRACKBED_REQUIRE_BROWSER") == "1":
            pytest.fail("TRACKBED_REQUIRE_BROWSER=1, but no Chromium is installed")
        pytest.skip("NOT TESTED: no Chromium on this machine")
    with sync_playwright() as playwright:
        expect.set_options(timeout=SLOW)
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=list(ARGUMENTS), headless=True)
        yield browser
        browser.close()


def recorded(context: BrowserContext) -> BrowserContext:
    """Print errors of the context's pages, and answers and requests that failed: pytest shows them where a test fails."""

    def add(line: str) -> None:
        events.append(line)
        print(f"chromium: {line}")

    context.on("weberror", lambda error: add(f"uncaught {error.error}"))
    context.on("console", lambda message: add(f"console: {message.text}") if message.type == "error" else None)
    context.on("requestfailed", lambda request: add(f"{request.failure} {request.method} {request.url}"))
    context.on(
        "response",
        lambda answer: add(f"{answer.status} {answer.request.method} {answer.url}") if answer.status >= 400 else None,
    )
    return context


@contextmanager
def none_refused(context: BrowserContext, statuses: Collection[int] = (403,)) -> Iterator[None]:
    """At the end no request may have had one of these statuses or a server error, and no page an error of its origin."""
    refused: list[str] = []
    recorded(context)
    context.on(
        "response",
        lambda answer: (
            refused.append(f"{answer.status} {answer.request.method} {answer.url}")
            if answer.status in statuses or answer.status >= 500
            else None
        ),
    )
    context.on(
        "console",
        lambda message: (
            refused.append(message.text)
            if message.type == "error" and re.search(r"\b403\b|CORS|Cross-origin", message.text)
            else None
        ),
    )
    yield
    assert not refused, refused


def choose(page: Page, name: str) -> None:
    """Click an entry of a page's menu; it is opened again where the page, drawn once more, has closed it."""
    entry = page.get_by_role("menuitem", name=name)

    def clicked() -> bool:
        with suppress(TimeoutError):
            if not entry.is_visible():
                page.get_by_test_id("overflow-menu-trigger").first.click()
            entry.click(timeout=5000)
            return True
        return False

    inspection.until(clicked)


def create_experiment(page: Page, mlflow: str, name: str, shown: Callable[[], object] = lambda: None) -> str:
    """A new experiment, made on MLflow's own page as a person makes it; gives its id. ``shown``: before the first click.

    The page is left empty: the new experiment's redirects itself once more, also after the next address.
    """
    page.goto(f"{mlflow}/#/experiments")
    expect(page.get_by_text("Default", exact=True).first).to_be_visible()
    shown()
    dialog = page.get_by_role("dialog")
    field = dialog.get_by_placeholder("Input an experiment name")
    fill(field, name, lambda: page.get_by_role("button", name="Create").first.click())
    with page.expect_response(re.compile(r"/experiments/create$")) as created:
        dialog.get_by_role("button", name="Create").click()
    assert created.value.status == 200, created.value.text()
    experiment = str(created.value.json()["experiment_id"])
    page.wait_for_url(re.compile(rf"#/experiments/{experiment}\b"))
    page.goto("about:blank")
    return experiment


def rename_run(page: Page, name: str) -> None:
    """Rename the run whose page is open, by its menu."""
    fill(page.get_by_test_id("rename-modal-input"), name, lambda: choose(page, "Rename"))
    with page.expect_response(re.compile(r"/runs/update$")) as renamed:
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
    assert renamed.value.status == 200, renamed.value.text()
    expect(page.get_by_text(name).first).to_be_visible()


def fill(field: Locator, text: str, show: Callable[[], object]) -> None:
    """Fill a field of a dialog, which is opened again where the page, drawn once more, has closed it."""

    def filled() -> bool:
        with suppress(TimeoutError):
            if not field.is_visible():
                show()
            field.fill(text, timeout=5000)
            return True
        return False

    inspection.until(filled)
