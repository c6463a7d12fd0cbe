"""The memory of a worker has a limit, so that one request fails where it would take the machine's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress

from trackbed_mlflow.errors import say

LIMIT = "TRACKBED_MEMORY_LIMIT"  # of the whole server, as Docker spells it: 4g
DEFAULT = "4g"
LEAST = 1 << 30  # bytes; a worker that rests has a third of it
RESERVED = 1 << 29  # bytes of a worker's share that it keeps while another process searches for it
UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def share(environment: Mapping[str, str], workers: int) -> int:
    """Bytes of one worker's data."""
    match = re.fullmatch(r"(\d+)([bkmg]?)b?", (environment.get(LIMIT) or DEFAULT).lower())
    if not match:
        match = re.fullmatch(r"(\d+)([bkmg]?)b?", DEFAULT)
        assert match
    return max(int(match[1]) * UNITS[match[2]] // max(workers, 1), LEAST)


def search_process_count(environment: Mapping[str, str], workers: int) -> int:
    """How many processes may search: one beside each worker, where its share has room for both."""
    return workers if share(environment, workers) - RESERVED >= LEAST else 0


def needed_for_searches(workers: int) -> str:
    """The least MEMORY_LIMIT with which processes may search."""
    return f"{workers * (LEAST + RESERVED) >> 20}m"


def limit(workers: int, environment: Mapping[str, str] = os.environ) -> None:
    """From now on this process and its children get no more. What does not fit is an error of the one request."""
    import resource

    try:
        expected = share(environment, workers)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            expected = min(expected, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (expected, hard))
    except (OSError, ValueError) as error:
        say(f"the server's memory has no limit: {error}")


def leave_reserve() -> None:
    """In a process that searches for a worker: it has what the worker does not keep of its share."""
    import resource

    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_DATA, (max(soft - RESERVED, LEAST), hard))
