"""Answers of the fast path are the text that MLflow writes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from trackbed_mlflow.fast_path.json_answers import indented

STRINGS = ["", "loss", 'a "quote"', "},\n      {", '},\\n    {"', "\n", "ü€😀", "\x00\u2028", "[", "]}"]


def made(source: random.Random, depth: int) -> Any:
    kind = source.choice(["text", "number", "float", "constant", "list", "dict", "dicts"])
    if kind == "text" or (depth == 0 and kind in ("list", "dict", "dicts")):
        return source.choice(STRINGS)
    if kind == "number":
        return source.choice([0, -1, 2**63 - 1, 1_700_000_000_000])
    if kind == "float":
        return source.choice([0.1, -0.0, 1e300, 5e-324, 3.0])
    if kind == "constant":
        return source.choice([True, False, None])
    if kind == "list":
        return [made(source, depth - 1) for _ in range(source.randrange(4))]
    if kind == "dict":
        return {source.choice(STRINGS): made(source, depth - 1) for _ in range(source.randrange(4))}
    rows = range(source.randrange(4))
    return [{f"{source.choice(STRINGS)}{n}": made(source, 0) for n in range(source.randrange(1, 4))} for _ in rows]


@pytest.mark.parametrize("seed", range(20))
def test_indented_is_what_json_writes(seed: int) -> None:
    source = random.Random(seed)
    for _ in range(300):
        value = made(source, 4)
        assert indented(value) == json.dumps(value, indent=2), value


def test_points_of_a_chart_are_what_json_writes() -> None:
    """All are written at once, and what is between two of them may stand in their names as well."""
    points = [{"key": name, "value": 0.5, "step": step} for name in STRINGS for step in range(3)]
    for value in (points, {"metrics": points}, {"runs": [{"data": {"metrics": points, "tags": []}}, {"info": {}}]}):
        assert indented(value) == json.dumps(value, indent=2)
