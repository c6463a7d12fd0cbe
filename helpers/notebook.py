"""The running notebook's link."""

from __future__ import annotations

from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.services import JUPYTER, State
from helpers.urls import local_host, public_url


def url(engine: Engine, token: str) -> str:
    """The one line to paste into a browser: the published port of the running notebook. TrackbedError if it is down."""
    settings, is_public = engine.settings, engine.deployment.is_public
    for status in engine.services():
        if status.name == JUPYTER:
            if status.state in (State.MISSING, State.EXITED) or not (status.ports or is_public):
                break
            if is_public:
                return f"{public_url(settings, JUPYTER)}/lab?token={token}"
            return f"http://{local_host(settings)}:{status.ports[0].published}/lab?token={token}"
    raise TrackbedError("JupyterLab is not running", "`invoke up` starts it")
