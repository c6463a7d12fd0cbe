"""One person's day with the lab, in the order of a day, on each engine: from the one link to the model loaded back.

TRACKBED_SCREENSHOTS=FOLDER keeps a picture of each page.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import pictures
from tests.browser.pictures import Pictures
from tests.chromium import SLOW, none_refused, recorded
from tests.conftest import Clone

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "notebook.md"
TAKEN_ON = "embedded"  # the engine of the pictures of the terminal, JupyterLab and MLflow
IDLE = re.compile(r"\| Idle$")
Keep = Callable[[Page, str], None]


def first_cell() -> str:
    """What docs/notebook.md has people run first."""
    return str(re.findall(r"```python\n(.*?)\n```", GUIDE.read_text(), re.DOTALL)[0])


@pytest.fixture
def keep(engine: str) -> Keep:
    """Keep a picture where someone asked for them."""

    def take(page: Page, name: str) -> None:
        if folder := os.environ.get("TRACKBED_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{engine}-day-{name}.png")

    return take


def menu(page: Page, *names: str) -> None:
    """Choose in JupyterLab's menu."""
    for name in names:
        page.get_by_role("menuitem", name=name, exact=True).click()


def opened(page: Page, *path: str) -> Locator:
    """A notebook, opened in the file browser as with a mouse, once its kernel can run cells."""
    for name in path:
        page.locator(".jp-DirListing-item", has_text=name).first.dblclick()
    notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    expect(page.locator(".lm-TabBar-tab.lm-mod-current", has_text=path[-1]).first).to_be_visible()
    expect(notebook.get_by_role("heading").first).to_be_visible()
    expect(page.get_by_text(IDLE)).to_be_visible()  # cells that are run before it are not run at all
    return notebook


def in_jupyterlab(page: Page, keep: Keep, taken: Pictures | None) -> str:
    """The welcome notebook, a script in a terminal, a model that is registered and loaded back; gives the address of
    the first run."""
    expect(page.locator(".jp-LauncherCard, .jp-Notebook").first).to_be_visible()  # or what an earlier try left open
    for name in ("examples", "welcome.ipynb"):
        expect(page.locator(".jp-DirListing-item", has_text=name).first).to_be_visible()
    expect(page.get_by_text("Jupyter news")).to_have_count(0)
    keep(page, "1-launcher")

    notebook = opened(page, "welcome.ipynb")
    menu(page, "Run", "Run All Cells")
    link = notebook.locator(".jp-OutputArea-output a", has_text="/runs/").first
    link.wait_for(timeout=2 * SLOW)
    run = link.get_attribute("href") or ""
    assert run.endswith("?workflowType=machine_learning")
    expect(notebook.get_by_role("columnheader", name="tags.mlflow.runName")).to_be_visible(timeout=2 * SLOW)
    assert notebook.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() <= 1
    link.scroll_into_view_if_needed()
    keep(page, "2-welcome")
    if taken:
        cell = notebook.locator(".jp-CodeCell").filter(has=page.locator("a[href*='/runs/']")).first
        taken.page(page, "jupyterlab", (cell.locator(".cm-content"), link), cell.locator(".jp-OutputArea img").first)
    in_a_terminal(page, keep)
    a_model(page, keep)
    return run


def in_a_terminal(page: Page, keep: Keep) -> None:
    """A script, written and run there."""
    name = f"first_run_{uuid.uuid4().hex[:6]}"
    page.locator("[data-command='launcher:create']").first.click()
    page.locator(".jp-Launcher:visible .jp-LauncherCard", has_text="Terminal").click()
    terminal = page.locator(".jp-Terminal:not(.lm-mod-hidden)")
    terminal.locator(".xterm-helper-textarea").wait_for(state="attached")
    terminal.click()
    page.keyboard.type(f"cat > {name}.py\n{first_cell()}\n")
    page.keyboard.press("Control+d")
    page.keyboard.type(f"python {name}.py && touch {name}.done\n")
    expect(page.locator(".jp-DirListing-item", has_text=f"{name}.done")).to_be_visible(timeout=2 * SLOW)
    keep(page, "3-terminal")


def a_model(page: Page, keep: Keep) -> None:
    """Registered under a name, and loaded back by it."""
    notebook = opened(page, "examples", "4-registry.ipynb")
    menu(page, "Run", "Run All Cells")
    loaded = notebook.locator(".jp-OutputArea-output", has_text="loaded back")
    expect(loaded).to_be_visible(timeout=2 * SLOW)
    expect(notebook.locator(".jp-OutputArea-output", has_text="refused: Shape of input")).to_be_visible()
    loaded.scroll_into_view_if_needed()
    keep(page, "4-loaded-back")


def in_mlflow(page: Page, keep: Keep, run: str, taken: Pictures | None) -> None:
    """From the list of experiments to a run's curve and files, and to the registered model."""
    for name in ("welcome", "first-steps", "registry"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    keep(page, "5-experiments")
    page.get_by_role("link", name="first-steps", exact=True).click()
    page.locator("a[href*='/runs/']:visible", has_text=re.compile(r"\w+-\w+-\d+")).first.click()
    page.get_by_role("tab", name="Model metrics").click()
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible()
    keep(page, "6-curve")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("notes.txt").first.click()
    expect(page.get_by_text("hello").first).to_be_visible()

    page.goto("about:blank")
    page.goto(run)  # as the notebook prints it
    expect(page.get_by_text("my first run").first).to_be_visible()
    page.get_by_role("tab", name="Model metrics").click()
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_visible()
    if taken:
        taken.page(
            page, "mlflow", (page.get_by_role("heading", name="my first run"), page.get_by_role("tablist").first)
        )
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("fit.png").first.click()
    expect(page.locator("img[src^='blob:'], img[src*='fit.png']").first).to_be_visible()
    keep(page, "7-artifact")

    page.goto("about:blank")
    page.goto(re.sub(r"/runs/\w+", "", run))  # the experiment's link: its runs, not traces
    page.wait_for_url(re.compile(r"/runs\?workflowType=machine_learning"))
    expect(page.get_by_role("link", name="my first run").first).to_be_visible()

    page.get_by_role("link", name="Model registry").click()
    page.get_by_role("link", name="digits", exact=True).click()
    expect(page.get_by_text("champion").first).to_be_visible()
    keep(page, "8-registry")


def in_the_store(browser: Browser, keep: Keep, deployment: Clone, console: str) -> None:
    """With the keys that `invoke credentials` prints, through published ports alone, as at the end of a tunnel.

    In a profile of its own: the console asks for a list of users, which its own server answers with a 501.
    """
    keys = dict(line.split()[:2] for line in deployment.value("credentials").splitlines())
    asked: set[str] = set()
    page = recorded(browser.new_context()).new_page()
    page.set_default_timeout(SLOW)
    page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
    page.goto(console)
    page.locator("#access-key").fill(keys["S3_ACCESS_KEY"])
    page.locator("#secret-key").fill(keys["S3_SECRET_KEY"])
    page.get_by_role("button", name="Sign In").click()
    page.wait_for_url(re.compile("dashboard"))
    keep(page, "9-console")
    page.goto(f"{console}/explorer.html")
    expect(page.get_by_text("mlflow-artifacts").first).to_be_visible()
    keep(page, "9-bucket")
    page.context.close()
    assert asked == {deployment.url("console"), deployment.url("s3")}


def test_a_lab_day(browser: Browser, deployment: Clone, keep: Keep, request: pytest.FixtureRequest) -> None:
    taken = Pictures(browser, request.config.getoption("--pictures"), pictures.own(deployment))
    if deployment.engine == TAKEN_ON:
        taken.terminal(deployment, "terminal", "invoke up")
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SLOW)
    with none_refused(context, (401, 403)):
        page = context.new_page()
        page.goto(deployment.value("open"))
        start = page.url
        card = page.get_by_role("navigation", name="Open").get_by_role("link", name=re.compile("console"))
        console = (
            (card.get_attribute("href") or "").rstrip("/") if deployment.engine == "docker" else ""
        )  # embedded has no store
        keep(page, "0-start")

        page.get_by_role("link", name="JupyterLab", exact=True).click()
        page.wait_for_url(re.compile(f"^{deployment.url('jupyter')}/lab"))
        page.goto(f"{deployment.url('jupyter')}/lab?reset")  # without what an earlier try left open
        run = in_jupyterlab(page, keep, taken if deployment.engine == TAKEN_ON else None)
        page.goto(start)
        page.get_by_role("link", name="MLflow", exact=True).click()
        in_mlflow(page, keep, run, taken if deployment.engine == TAKEN_ON else None)
        if console:
            in_the_store(browser, keep, deployment, console)

        page.goto(start)
        backup = deployment.value("backup")
        page.get_by_role("link", name="Look again").click()
        expect(page.get_by_text(f"to {backup}")).to_be_visible()
        expect(page.get_by_text("(just now)").first).to_be_visible()
        keep(page, "start-in-the-evening")
        if deployment.engine != TAKEN_ON:  # it has a store, and so all that the page can show
            taken.page(page, "start", page.locator("header, nav, table, dt, pre").all(), full=True)
        context.close()
