"""The outermost layer of the MLflow server: what every request has to pass, whichever way it then takes."""

from __future__ import annotations

import os
from collections.abc import Mapping

import access


def guarded(app: access.App, environment: Mapping[str, str] = os.environ) -> access.App:
    """``app`` (MLflow with the shorter ways) behind all checks, the first to be asked outermost."""
    return access.protected(app, environment)
