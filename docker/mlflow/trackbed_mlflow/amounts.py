"""How far a long command is, in lines of stdout: {"amount": [WHAT, DONE, WHOLE]}. Nobody knows a WHOLE of 0."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY = 0.5  # seconds between two lines


def tell(what: str, done: int, whole: int = 0) -> None:
    print(json.dumps({"amount": [what, done, whole]}), flush=True)


def counted(items: Iterable[T], what: str, whole: int = 0) -> Iterator[T]:
    """The items; now and then it is told how many were used."""
    told = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if (now := time.monotonic()) >= told + EVERY:
            told = now
            tell(what, done, whole)
