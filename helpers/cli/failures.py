"""Errors become a message, a next step and an exit code; never a traceback unless asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from helpers import at_end, console
from helpers.errors import INTERRUPTED, EngineUnavailable, TrackbedError, reason, traceback_wanted


def exit_code(call: Callable[[], int | None]) -> int:
    """Run it; its exit code, or that of its failure, which has been reported then."""
    try:
        with at_end.task():
            return call() or 0
    except KeyboardInterrupt:
        console.notice("\ninterrupted; `invoke status` shows what runs")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except subprocess.TimeoutExpired as error:
        problem = _timed_out(error)
    except Exception as error:
        if traceback_wanted():
            raise
        problem = _explained(error)
    console.error(problem)
    return problem.code


def _timed_out(error: subprocess.TimeoutExpired) -> TrackbedError:
    command = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd[:3]))
    return TrackbedError(
        f"`{command}` did not end within {error.timeout:.0f} s and was stopped",
        "see `invoke doctor`; then run the same command again",
    )


def _explained(error: Exception) -> TrackbedError:
    if isinstance(error, TrackbedError):
        # an engine that does not answer may be one whose node was lost
        return (reason() if isinstance(error, EngineUnavailable) else None) or error
    if lost := reason():
        return lost
    from helpers import machine_failures

    return machine_failures.known(error) or TrackbedError(
        f"unexpected: {type(error).__name__}: {error}", "TRACKBED_TRACEBACK=1 shows where; please report it"
    )
