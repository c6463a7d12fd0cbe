"""What MLflow's page shows on a browser's first visit: runs, not the GenAI mode with the assistant's panel open.

MLflow 3.17 has no setting for these; its page reads them from the browser's own storage. A small script before the
page's own writes what is not there yet, so whatever a person chose stays. Only the page itself is changed (`/`).
The same script asks again for files of the page that did not arrive (ui_retries.js).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trackbed_mlflow import fast_path
from trackbed_mlflow.errors import say
from trackbed_mlflow.fast_path import runs_table

# keys and values as the page writes them (`useLocalStorage` in its source): NAME_vVERSION, JSON
DEFAULTS = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,  # the assistant is off here
    "mlflow.telemetry.info.alert.dismissed_v1": True,  # telemetry is off here
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,  # praise of the registry's page, in front of the registry
}
SCRIPT = """try {
  for (const [key, value] of Object.entries(%s))
    if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
} catch { /* a browser that stores nothing */ }
"""
RETRIES = Path(__file__).with_name("ui_retries.js")
BEFORE = '<script defer="defer" src="static-files/'  # the page's own script
MAX_AGE = 2419200  # seconds, as of MLflow's own files; the name changes with the content


def script() -> tuple[str, bytes]:
    """The script's address, relative to the page, and its text. A file of its own: a strict CSP lets it pass."""
    text = (RETRIES.read_text("utf-8") + SCRIPT % json.dumps(DEFAULTS)).encode()
    return f"static-files/trackbed/defaults.{hashlib.sha256(text).hexdigest()[:12]}.js", text


def with_script(page: str, address: str) -> str:
    """MLflow's page with the script before its own. Raises ValueError for a page of another build."""
    if page.count(BEFORE) != 1:
        raise ValueError("its own script is not where it was")
    return page.replace(BEFORE, f'<script src="{address}"></script>{BEFORE}')


def install(flask: Any, smaller_table: bool = False) -> None:
    """Serve both from MLflow's Flask application; a page of another build stays as it is. ``smaller_table``: with the
    fast path's part of the page."""
    from flask import Response, request  # type: ignore[import-not-found]

    folder = Path(flask.static_folder)
    changed = unchanged = tuple[runs_table.Script, ...]()
    try:
        address, text = script()
        page = with_script((folder / "index.html").read_text("utf-8"), address)
        views = [rule.endpoint for rule in flask.url_map.iter_rules() if rule.rule == "/"]
        if len(views) != 1:
            raise ValueError("it is served in another way")
    except (OSError, ValueError) as error:
        say(f"MLflow's own page, without Trackbed's defaults: {error}")
        if smaller_table:
            fast_path.fallbacks[runs_table.PART] = str(error)
        return
    if smaller_table:
        with fast_path.part(runs_table.PART):
            page, changed = runs_table.with_smaller_buffer(page, folder)
    else:
        with suppress(LookupError):
            unchanged = runs_table.with_smaller_buffer(page, folder)[1]

    def answer(content: bytes, kind: str, seconds: int) -> Any:
        result = Response(content, content_type=kind)
        result.set_etag(hashlib.sha256(content).hexdigest()[:32])
        if seconds:
            result.cache_control.public, result.cache_control.max_age = True, seconds
        else:
            result.cache_control.no_cache = True  # asks each time, and mostly hears 304
        return result.make_conditional(request)

    def serve(address: str, content: Callable[[], bytes], seconds: int = MAX_AGE) -> None:
        def view() -> Any:
            return answer(content(), "text/javascript; charset=utf-8", seconds)

        flask.add_url_rule(f"/{address}", re.sub(r"\W", "_", f"trackbed_{address}"), view)

    html = page.encode()
    flask.view_functions[views[0]] = lambda: answer(html, "text/html; charset=utf-8", 0)
    serve(address, lambda: text)
    for one in changed:
        serve(f"static-files/{one.address}", one.content)
    for one in unchanged:  # for a page that was open as the switch was turned off
        serve(f"static-files/{one.address}", one.source.read_bytes, 0)
