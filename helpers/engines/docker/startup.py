"""Watching the services come up: when to give up, and why Compose could not start them."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping

from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.readiness import failure, stop_at_failed
from helpers.services import BUCKET, PartStatus, State


class Watch:
    """One `up` of the named parts: what had failed before it does not count until it was begun again."""

    def __init__(self, engine: Engine, watched: Iterable[str]) -> None:
        self.engine = engine
        self.watched = set(watched) - {BUCKET}
        self.deadline = time.monotonic() + engine.settings.ready_timeout
        first = engine.parts()
        self.stale = {s.name for s in first if s.failed}  # of an earlier attempt, until they were seen alive
        self.before = {s.name: s.identity for s in first if s.up}
        self.seen: dict[str, int] = {}

    def look(self, statuses: Mapping[str, PartStatus]) -> None:
        """Raises PartFailed for a part that will not come up, TrackbedError after the time that there is."""
        self.stale -= {name for name in self.stale if not statuses[name].failed}
        # Compose stops what it replaces: an end that says nothing about the one that comes
        replaced = {name for name, s in statuses.items()
                    if s.state is State.EXITED and s.identity == self.before.get(name)}
        stop_at_failed(self.engine, self.watched - self.stale - replaced, self.seen, statuses.values())
        if time.monotonic() > self.deadline:
            missing = [f"{s.name} ({s.state})" for s in statuses.values() if not s.up]
            raise TrackbedError(f"not up after {self.engine.settings.ready_timeout} s: {', '.join(missing)}",
                                "`invoke logs PART` shows why; READY_TIMEOUT raises the limit")


def explain(engine: Engine, output: list[str], stale: Collection[str]) -> None:
    """Raise the reason why `compose up` failed: the part that failed, else Compose's own last words.

    ``stale``: those that had failed before and were not begun again; they come after Compose's own words.
    """
    for status in engine.parts():
        if status.failed and status.name not in stale:
            raise failure(engine, status)
    text = " ".join(output[-3:])
    # a part that is restarting may look alive at the moment of asking: Compose's own word counts
    for status in engine.parts():
        if re.search(rf"container {engine.settings.project}-{status.name}-1 (is unhealthy|exited)", text):
            raise failure(engine, status)
    for status in engine.parts():
        if status.failed:
            raise failure(engine, status)
    if found := re.search(r"Bind for \S*?:(\d+) failed|address already in use", text):
        raise TrackbedError(f"a port is taken: {found.group(0)}", "`invoke doctor` says by whom")
    if "incorrect label" in text:
        raise TrackbedError(f"a network of this name was made by something else: {output[-1]}",
                            "`docker network rm` it, or choose another name with --project=NAME")
    raise TrackbedError(f"docker compose up failed: {output[-1] if output else 'no output'}",
                        "see `invoke doctor`", tuple(output[-10:]))
