"""What MLflow's page shows first (trackbed_mlflow/ui_defaults.py); tests/browser looks at it in a browser."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from trackbed_mlflow import fast_path, ui_defaults
from trackbed_mlflow.fast_path import runs_table

from helpers import clone

PAGE = (
    '<!doctype html><head><title>MLflow</title><script defer="defer" src="static-files/static/js/main.c2f5f8d4.js">'
    "</script></head><body></body>"
)


class Response:
    """Stands for Flask's."""

    def __init__(self, content: bytes, content_type: str) -> None:
        self.content, self.type, self.etag = content, content_type, ""
        self.cache_control = SimpleNamespace()

    def set_etag(self, etag: str) -> None:
        self.etag = etag

    def make_conditional(self, request: object) -> Response:
        assert request == "the request"
        return self


class Flask:
    """Stands for MLflow's application: its page's view, and what is added."""

    def __init__(self, folder: Path, rules: tuple[str, ...] = ("/", "/health")) -> None:
        self.static_folder = str(folder)
        self.url_map = SimpleNamespace(
            iter_rules=lambda: [SimpleNamespace(rule=rule, endpoint=f"view of {rule}") for rule in rules]
        )
        self.view_functions: dict[str, Callable[[], Any]] = {}
        self.added: dict[str, Callable[[], Any]] = {}

    def add_url_rule(self, rule: str, endpoint: str, view: Callable[[], Any]) -> None:
        self.added[rule] = view


@pytest.fixture(autouse=True)
def flask_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flask")
    module.Response, module.request = Response, "the request"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flask", module)
    monkeypatch.setattr(fast_path, "fallbacks", {})


def test_the_script_runs_before_the_pages_own_and_is_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(PAGE)
    flask = Flask(tmp_path)
    ui_defaults.install(flask)
    page = flask.view_functions["view of /"]()
    sources = re.findall(r'<script [^>]*src="([^"]+)"', page.content.decode())
    assert sources == [ui_defaults.script()[0], "static-files/static/js/main.c2f5f8d4.js"]
    assert "<script>" not in page.content.decode()  # none that a Content-Security-Policy would stop
    assert page.type.startswith("text/html") and vars(page.cache_control) == {"no_cache": True}

    script = flask.added[f"/{sources[0]}"]()
    assert script.type.startswith("text/javascript") and script.cache_control.max_age > 0
    # kept for weeks: another content has another name, and both an ETag of their own
    assert hashlib.sha256(script.content).hexdigest()[:12] in sources[0] and page.etag != script.etag


def test_the_script_names_each_key_and_writes_only_what_is_not_there() -> None:
    text = ui_defaults.script()[1].decode()
    assert json.dumps(ui_defaults.DEFAULTS) in text
    assert "getItem(key) === null" in text


def test_the_script_asks_again_for_files_of_the_page_and_travels_with_the_server() -> None:
    """tests/browser looks at what it does."""
    retries = ui_defaults.RETRIES.read_text()
    assert ui_defaults.script()[1].decode().startswith(retries) and "// static-files/" in retries
    assert ui_defaults.script()[0].startswith("static-files/trackbed/")  # its own address tells where the files are
    assert ui_defaults.RETRIES in clone.server_files()


@pytest.mark.parametrize(
    ("page", "rules"),
    [(PAGE.replace("static-files", "elsewhere"), ("/",)), (PAGE * 2, ("/",)), (None, ("/",)), (PAGE, ("/ui",))],
)
def test_a_page_of_another_build_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], page: str | None, rules: tuple[str, ...]
) -> None:
    if page is not None:
        (tmp_path / "index.html").write_text(page)
    flask = Flask(tmp_path, rules)
    ui_defaults.install(flask)
    assert not flask.view_functions and not flask.added
    assert "MLflow's own page" in capsys.readouterr().err


def shown(folder: Path, table: str | None, main: str = runs_table.TABLE) -> tuple[Flask, str]:
    """The application over a page with these two scripts, and the address of the page's own script."""
    (folder / "index.html").write_text(PAGE)
    scripts = {"static/js/main.c2f5f8d4.js": f'3793===e?"{main}":""', runs_table.TABLE: table}
    (folder / "static" / "js").mkdir(parents=True)
    for name, text in scripts.items():
        if text is not None:
            (folder / name).write_text(text)
    flask = Flask(folder)
    ui_defaults.install(flask, smaller_table=True)
    page = flask.view_functions["view of /"]().content.decode()
    return flask, re.findall(r'<script defer="defer" src="static-files/([^"]+)"', page)[0]


def test_the_table_of_runs_is_served_with_fewer_rows_in_scripts_of_other_addresses(tmp_path: Path) -> None:
    """A browser keeps MLflow's own for weeks."""
    flask, main = shown(tmp_path, "getRowId:je,rowBuffer:101,onCellClicked:Oe")
    assert re.fullmatch(r"static/js/main\.[0-9a-f]{8}\.js", main) and "c2f5f8d4" not in main
    text = flask.added[f"/static-files/{main}"]().content.decode()
    table = re.findall(r'"(static/js/3793\.[0-9a-f]{8}\.chunk\.js)"', text)[0]
    assert text == f'3793===e?"{table}":""' and table != runs_table.TABLE
    script = flask.added[f"/static-files/{table}"]()
    assert script.content == b"getRowId:je,rowBuffer:10,onCellClicked:Oe"
    assert script.type.startswith("text/javascript") and script.cache_control.max_age > 0
    assert not fast_path.fallbacks


@pytest.mark.parametrize(
    ("table", "main", "why"),
    [
        ("rowBuffer:50", runs_table.TABLE, "rowBuffer:101 is 0 times in static/js/3793"),
        ("rowBuffer:101,rowBuffer:101", runs_table.TABLE, "rowBuffer:101 is 2 times in static/js/3793"),
        (None, runs_table.TABLE, "static/js/3793.0117dc93.chunk.js: No such file"),
        ("rowBuffer:101", "static/js/other.js", "3793.0117dc93.chunk.js is 0 times in static/js/main.c2f5f8d4.js"),
    ],
)
def test_scripts_of_another_build_stay_as_they_are_and_the_log_says_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str | None, main: str, why: str
) -> None:
    flask, named = shown(tmp_path, table, main)
    assert named == "static/js/main.c2f5f8d4.js" and list(flask.added) == [f"/{ui_defaults.script()[0]}"]
    said = capsys.readouterr().err
    assert said.count("MLflow's own way is used for the table of runs") == 1 and why in said
    assert why in fast_path.fallbacks[runs_table.PART]
    assert runs_table.PART in fast_path.PARTS


def test_a_page_of_another_build_is_a_fallback_of_the_table(tmp_path: Path) -> None:
    ui_defaults.install(Flask(tmp_path), smaller_table=True)
    assert fast_path.fallbacks.pop(runs_table.PART)


def test_the_fast_path_off_leaves_the_table_alone_and_answers_pages_that_were_open_before(tmp_path: Path) -> None:
    before, main = shown(tmp_path, "rowBuffer:101")
    flask = Flask(tmp_path)
    ui_defaults.install(flask)
    assert "main.c2f5f8d4.js" in flask.view_functions["view of /"]().content.decode()
    assert list(flask.added) == list(before.added) and f"/static-files/{main}" in flask.added
    _, *scripts = (flask.added[address]() for address in flask.added)
    assert [script.content.decode() for script in scripts] == [f'3793===e?"{runs_table.TABLE}":""', "rowBuffer:101"]
    assert [vars(script.cache_control) for script in scripts] == [{"no_cache": True}] * 2  # it may be turned on again
