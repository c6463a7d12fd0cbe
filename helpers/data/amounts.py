"""How far a command inside a service is, from the lines that it tells (docker/mlflow/trackbed_mlflow/amounts.py)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from helpers.engines.streaming import Pipe

if TYPE_CHECKING:
    from helpers.services import ProgressReporter

LONG = 24 * 3600.0


def followed(pipe: Pipe, progress: ProgressReporter) -> bytes:
    """Tell how far it is, to its good end; gives the last line that says something else. Raises TrackbedError."""
    last = b""
    for line in pipe.out:
        try:
            what, done, whole = json.loads(line)["amount"]
            done, whole = int(done), int(whole)
        except (ValueError, TypeError, KeyError):
            last = line
            continue
        progress.amount(str(what), done, whole, f"{done} of {whole}" if whole else str(done))
    pipe.finish(LONG)
    return last
