"""The login at a remote tracking server, read from files: no secret is in the notebook's environment.

A plugin of MLflow's request auth: MLFLOW_TRACKING_AUTH=trackbed chooses it. Every request to the tracking server
gets the login of the files in TRACKBED_TRACKING_SECRETS; a request to any other server, as after
``mlflow.set_tracking_uri()``, does not, nor one that brings a login of its own (MLFLOW_TRACKING_USERNAME and so on).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}


def _read(name: str) -> str:
    try:
        return Path(os.environ.get("TRACKBED_TRACKING_SECRETS", ""), name).read_text()
    except OSError:
        return ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or PORTS.get(parts.scheme)


def _header() -> str:
    """What goes into the header, "" without a login."""
    if token := _read("tracking-token"):
        return f"Bearer {token}"
    if username := _read("tracking-username"):
        pair = f"{username}:{_read('tracking-password')}".encode()
        return "Basic " + base64.b64encode(pair).decode()
    return ""


def authorize(request: Any) -> Any:
    """Add the login to a prepared request of the tracking server."""
    ours = os.environ.get("TRACKBED_SERVER_URI", "")
    header = _header()
    if header and ours and _origin(request.url) == _origin(ours) and "Authorization" not in request.headers:
        request.headers["Authorization"] = header
    return request


class Login:
    """MLflow asks for it by name and hands what it gives to requests."""

    def get_name(self) -> str:
        return "trackbed"

    def get_auth(self) -> Callable[[Any], Any]:
        return authorize
