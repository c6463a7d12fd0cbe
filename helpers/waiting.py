"""Waiting for something that this process cannot be told of: looked at again and again, for so long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], seconds: float, pause: float = 0.05) -> T:
    """What ``look`` gives, once that is true or after ``seconds``; at least one look, ``pause`` seconds between two."""
    import tenacity  # late: it costs 0.1 s

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_fixed(pause),
        retry=tenacity.retry_if_result(lambda result: not result),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    return retrying(look)
