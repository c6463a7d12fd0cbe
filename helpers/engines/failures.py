"""A service that does not come up: when waiting is of no use, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from helpers import database_failures, machine_failures, waiting
from helpers.engines.base import Engine
from helpers.errors import ServiceFailed
from helpers.services import POSTGRES, ServiceStatus, State

DOWN_SECONDS = 10.0  # within which a service that fails as it starts has failed once more
KILLED = (-1, -9, 137)  # as supervisor and Docker tell SIGKILL


def failure(engine: Engine, status: ServiceStatus) -> ServiceFailed:
    """The error for a service that has failed: its reason and its own last lines."""
    lines = tuple(line.rstrip() for line in engine.logs(status.name, tail=15))
    if status.name == POSTGRES and (known := database_failures.explain(lines)):
        return ServiceFailed(status.name, f"{status.name} is {status.state}: {known[0]}", known[1], lines)
    known = machine_failures.explain(lines)
    if known is None and status.exit_code in KILLED and machine_failures.killed_for_memory():
        known = machine_failures.MEMORY
    if known:
        telling = tuple(line for line in lines if machine_failures.explain((line,)))  # not the service's traceback
        return ServiceFailed(status.name, f"{status.name} is {status.state}: {known[0]}", known[1], telling or lines)
    code = f", exit code {status.exit_code}" if status.exit_code is not None else ""
    reason = f": {status.reason}" if status.reason and status.reason != f"exit code {status.exit_code}" else ""
    return ServiceFailed(
        status.name,
        f"{status.name} is {status.state}{code}{reason}",
        f"more: `invoke logs {status.name}`; fix the cause, then type `invoke up`",
        lines,
    )


def down(engine: Engine, status: ServiceStatus) -> ServiceStatus:
    """A service that restarts, as it is between two starts: only then its exit code is told. Else ``status``."""

    def look() -> ServiceStatus | None:
        return next((s for s in engine.services() if s.name == status.name and s.exit_code is not None), None)

    return waiting.until(look, DOWN_SECONDS, 0.1) or status


def stop_at_failed(
    engine: Engine, names: Iterable[str], seen: dict[str, int], statuses: Iterable[ServiceStatus] | None = None
) -> None:
    """Raise ServiceFailed for a service that will not become ready by waiting.

    One crash may be the service's own way to wait for another; a second look that still finds it down is the end.
    ``seen`` counts those looks and restarts, and belongs to the caller, as do ``statuses`` where it has just looked.
    """
    expected = set(names)
    for status in engine.services() if statuses is None else statuses:
        if status.name not in expected:
            continue
        if status.state in (State.EXITED, State.UNHEALTHY):
            raise failure(engine, status)
        # one that takes long to fail is mostly seen while it starts
        if status.restarts - seen.setdefault(f"{status.name} {status.identity} at first", status.restarts) >= 2:
            raise failure(engine, replace(down(engine, status), state=State.RESTARTING))
        if status.state is State.RESTARTING:
            seen[status.name] = seen.get(status.name, 0) + 1
            if seen[status.name] >= 3:
                raise failure(engine, status)
