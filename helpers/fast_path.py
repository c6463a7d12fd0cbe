"""Whether the MLflow server uses the fast path (MLFLOW_FAST_PATH), as it tells the toolkit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.findings import Finding, Level
from helpers.services import MLFLOW, ServiceStatus
from helpers.suggestions import shown

ON = "on: MLflow answers frequent requests quicker than by itself (MLFLOW_FAST_PATH=off ends that)"
OFF = "off: MLflow runs as it is (MLFLOW_FAST_PATH=off)"
LIMITED = "on without {parts}: logging may wait for searches; `{setting}` in .env and `invoke up` give them"


def read(engine: Engine) -> dict[str, Any] | None:
    """What the server that runs says of itself; None where it does not tell.

    {"enabled": bool, "fallbacks": {PART: why}, "limited": {PART: the setting with which it would be used}}
    """
    try:
        done = engine.exec(MLFLOW, ("trackbed-mlflow", "fast-path"), timeout=30)
        result = json.loads(done.stdout) if done.code == 0 else None
    except (TrackbedError, ValueError):
        return None
    return result if _is_whole(result) else None


def _is_whole(state: object) -> bool:
    return isinstance(state, dict) and isinstance(state.get("fallbacks"), dict)


def note(engine: Engine, statuses: Iterable[ServiceStatus]) -> dict[str, Any] | None:
    """For the project's state: what the server says, and which process it is."""
    for server in statuses:
        if server.name == MLFLOW:
            process = engine.process(server)  # before it is asked: a later one may say something else
            return {"process": process, **result} if (result := read(engine)) else None
    return None


def noted(engine: Engine, applied: Mapping[str, Any], server: ServiceStatus) -> dict[str, Any] | None:
    """What the server said when `up` started it: it is so as long as that process runs."""
    result: Any = applied.get("fast_path")
    return result if _is_whole(result) and result.get("process") == engine.process(server) else None


def check(state: dict[str, Any] | None) -> Finding:
    """One line for `doctor`: on, off, or which parts fell back to MLflow's own way and why."""
    if state is None:
        return Finding(
            Level.WARNING,
            "fast path",
            "the MLflow server does not say whether it uses it",
            "start it again: `invoke up`",
        )
    if not state.get("enabled"):
        return Finding(Level.OK, "fast path", OFF)
    if not state["fallbacks"]:
        return Finding(Level.OK, "fast path", _limited(state) or ON)
    reasons = "; ".join(f"{shown(str(name), 40)}: {shown(str(why), 200)}" for name, why in state["fallbacks"].items())
    return Finding(
        Level.WARNING,
        "fast path",
        f"MLflow's own, slower way is used for {reasons}",
        "use the MLflow that Trackbed locks: `invoke build`, then `invoke up`",
    )


def _limited(state: dict[str, Any]) -> str:
    """What a setting keeps from being used: as somebody chose, but few know what follows. "": nothing."""
    limited = state.get("limited")  # an earlier version does not say
    if not isinstance(limited, dict) or not limited:
        return ""
    parts, settings = (" and ".join(shown(str(word), 40) for word in words) for words in (limited, limited.values()))
    return LIMITED.format(parts=parts, setting=settings)


def summary(state: dict[str, Any] | None) -> str:
    """The same for `status`: with what to type where it is not as it should be."""
    finding = check(state)
    return "; ".join(filter(None, [finding.detail, finding.fix]))
