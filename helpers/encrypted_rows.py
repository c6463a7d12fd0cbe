"""What MLflow has encrypted in its database, and what of it nobody can decrypt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from helpers.engines.base import MLFLOW, Engine
from helpers.errors import TrackbedError
from helpers.project.credentials import KEK_PASSPHRASE, WEBHOOK_KEY
from helpers.suggestions import shown


def sealed(engine: Engine, tried: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """What is encrypted, what of it nobody can decrypt, and how many rows each of the ``tried`` keys opens.

    {"rows": {NAME: count}, "lost": {NAME: [names]}, "opened": {NAME: [count, ...]}} by the names of the keys.
    Raises TrackbedError where the server does not tell.
    """
    done = engine.exec(MLFLOW, ("trackbed-mlflow", "sealed"), stdin=json.dumps(tried or {}).encode(), timeout=120)
    try:
        result = json.loads(done.stdout[done.stdout.index("{") :]) if done.code == 0 else None
    except ValueError:
        result = None
    if not isinstance(result, dict):
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise TrackbedError(f"MLflow does not report what it has encrypted: {lines[-1]}", "`invoke logs mlflow`")
    return result


def undecryptable(sealed: Mapping[str, Any]) -> str:
    """One line about what cannot be decrypted and what to do; "" when everything can."""
    labels = {KEK_PASSPHRASE: "API keys in MLflow", WEBHOOK_KEY: "secrets of webhooks"}
    gone = {name: names for name, names in sealed["lost"].items() if names}
    if not gone:
        return ""
    what = "; ".join(
        f"{labels[name]}: {', '.join(shown(str(one), 60) for one in names[:20])}"
        + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        for name, names in gone.items()
    )
    return (
        f"warning: cannot be decrypted with the keys of this project and is not used: {what}. Enter them again in "
        f"MLflow, or put {' and '.join(gone)} of the project that they come from into .env, then `invoke up`"
    )
