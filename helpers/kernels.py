"""What runs in JupyterLab and would end with it: kernels by the names of their notebooks, and terminals in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.http_request import ask
from helpers.project.credentials import JUPYTER_TOKEN
from helpers.project.project import Project
from helpers.services import JUPYTER
from helpers.suggestions import shown

RECENT = 120.0  # seconds since a terminal's last output in which it counts as busy
MOST = 8  # names in one line


@dataclass(frozen=True)
class Work:
    """A kernel or a terminal; ``busy``: it computes, or has just printed something."""

    name: str
    busy: bool

    def __str__(self) -> str:
        return f"{self.name} ({'busy' if self.busy else 'idle'})"


def running(engine: Engine, token: str) -> tuple[Work, ...]:
    """Kernels and terminals of a running JupyterLab; nothing where it does not answer."""
    try:
        with engine.open(JUPYTER, "http") as address:
            answers = [
                _listed(ask(f"{address.url}/api/{what}", timeout=5, token=token).body)
                for what in ("sessions", "kernels", "terminals")
            ]
    except (OSError, TrackbedError):
        return ()
    sessions, kernels, terminals = answers
    result: dict[str, Work] = {}
    for session in sessions:
        if isinstance(kernel := session.get("kernel"), dict):
            name = str(session.get("path") or session.get("name") or "a kernel").partition("-jvsc-")[0]
            result[str(kernel.get("id"))] = Work(shown(name), kernel.get("execution_state") == "busy")
    for kernel in kernels:
        result.setdefault(
            str(kernel.get("id")),
            Work(f"a kernel {shown(str(kernel.get('name')))}", kernel.get("execution_state") == "busy"),
        )
    used = [Work(f"terminal {shown(str(t.get('name')))}", _recent(str(t.get("last_activity")))) for t in terminals]
    return (*result.values(), *used)


def _listed(text: str) -> list[dict[str, Any]]:
    """What JupyterLab says, whose user may have it say anything."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _recent(when: str) -> bool:
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds() < RECENT
    except (ValueError, TypeError):
        return False


def names(works: Iterable[Work]) -> str:
    """The first of them by name, the busy ones before the others, and how many more."""
    listed = sorted(works, key=lambda work: not work.busy)
    more = f" and {len(listed) - MOST} more" if len(listed) > MOST else ""
    return ", ".join(map(str, listed[:MOST])) + more


@dataclass(frozen=True)
class Consent:
    """Whom to ask before work is ended; ``terminal``: somebody is there to answer."""

    ask: Callable[[str], bool]
    terminal: bool


def before_a_restart(project: Project, engine: Engine, notice: Callable[[str], None], consent: Consent | None) -> None:
    """Name what would end with a notebook that is about to be started again, and ask. None: say it and go on.

    Raises TrackbedError where the answer is no, or nobody is there to answer and something computes.
    """
    if not engine.notebook_outdated():
        return
    if not (works := running(engine, project.credentials()[JUPYTER_TOKEN])):
        return
    text = f"JupyterLab has to restart, which ends: {names(works)}"
    if consent and consent.terminal:
        notice(text)
        if consent.ask("Go on?"):
            return
        raise TrackbedError("nothing was changed", "save what you need, then the same command again")
    if consent and any(work.busy for work in works):
        raise TrackbedError(f"{text}; nothing was changed", "wait for them, or end them: the same command with --yes")
    notice(text)
