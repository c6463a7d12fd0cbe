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
from trackbed_mlflow import ui_defaults

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
