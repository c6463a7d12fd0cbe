"""The points of a chart as the text that MLflow answers, without an object of each on the way.

A chart of 100 runs has 32,000 points. MLflow makes an entity, a message and a dict of each of them, and then the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from inspect import signature
from math import isfinite
from typing import Any

PATH = "/metrics/get-history-bulk-interval"
wanted: ContextVar[bool] = ContextVar("wanted", default=False)  # the store answers the current request with text


class Written(Exception):
    """The whole answer. It leaves the store as an exception does, so that MLflow converts no points."""

    def __init__(self, text: str) -> None:
        super().__init__("the points of a chart as text")
        self.text = text


def written(key: str, runs: Sequence[str], rows: Iterable[Sequence[Any]]) -> Written:
    """``rows``: run, value, timestamp, step, is_nan; the points of a run in their order."""
    of: dict[str, list[str]] = {}
    tails: dict[str, str] = {}
    head = f'{{\n      "key": {json.dumps(key)},\n      "value": '
    for run, value, timestamp, step, is_nan in rows:
        if run not in of:
            of[run], tails[run] = [], f',\n      "run_id": {json.dumps(run)}\n    }}'  # an imported id may be any text
        if is_nan or not isfinite(value):
            number = '"NaN"' if is_nan or value != value else '"Infinity"' if value > 0 else '"-Infinity"'
        else:
            number = repr(value)
        of[run].append(f'{head}{number},\n      "timestamp": {timestamp},\n      "step": {step}{tails[run]}')
    parts = [part for run in runs for part in of.get(run, ())]
    if not parts:
        return Written("{}")
    text = ",\n    ".join(parts)
    return Written(f'{{\n  "metrics": [\n    {text}\n  ]\n}}')


def replace(handlers: Any) -> None:
    """Ask the store for text where MLflow's REST API does. AttributeError where its handler is built otherwise."""
    own = handlers.get_metric_history_bulk_interval_impl
    if list(signature(own).parameters) != ["request_message"]:
        raise AttributeError("get_metric_history_bulk_interval_impl takes other words")
    message_to_json = handlers.message_to_json

    def impl(request_message: Any) -> Any:
        if not handlers.request.path.endswith(PATH):
            return own(request_message)  # GraphQL reads the message's fields
        token = wanted.set(True)
        try:
            return own(request_message)
        except Written as answer:
            return answer.with_traceback(None)  # else its frames and it keep each other, megabytes of text, in memory
        finally:
            wanted.reset(token)

    def to_json(message: Any, **words: Any) -> Any:
        return message.text if isinstance(message, Written) else message_to_json(message, **words)

    handlers.get_metric_history_bulk_interval_impl = impl
    handlers.message_to_json = to_json
