"""Asking a remote tracking server from inside the notebook whether it answers with this login."""

from __future__ import annotations

import json
import time
from pathlib import Path

from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.services import JUPYTER

SCRIPT = Path(__file__).parent / "probes" / "tracking_server.py"
NAME = "remote tracking server"  # among the services to wait for
PATIENCE = 30.0  # seconds for a server that may be just starting


class ServerAnswers:
    """A probe, asked from inside the notebook: empty when the server answers with this login.

    Raises TrackbedError at once for what waiting does not fix (401, TLS), for the rest after ``patience`` seconds.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._deadline = time.monotonic() + patience

    def __call__(self, engine: Engine) -> str:
        done = engine.exec(JUPYTER, ("python", "-"), stdin=SCRIPT.read_bytes(), timeout=60)
        answer = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
        try:
            data = json.loads(answer)
            problem, fix, final = str(data["problem"]), str(data["fix"]), bool(data["final"])
        except (ValueError, KeyError, TypeError):
            lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            problem, fix, final = (lines or [f"exit code {done.code}"])[-1], "`invoke logs jupyter` may show why", False
        if not problem:
            return ""
        if final or time.monotonic() > self._deadline:
            raise TrackbedError(
                f"JupyterLab is up, but from inside it {engine.settings.tracking_uri} {problem}",
                f"{fix}   (`invoke up` tries again)",
            )
        return f"the tracking server {problem}"
