"""A program that is sent to where a service runs: modules of ours in one text, because nothing of ours is there."""

from __future__ import annotations

import re
from importlib.resources.abc import Traversable

_OURS = re.compile(r"^from (?:helpers[\w.]*|__future__) import (?:\([^)]*\)|[^\n(]*)\n", re.MULTILINE)


def joined(*parts: Traversable) -> bytes:
    """These modules one after the other, the last one being the program: what one takes from another is there then."""
    text = "".join(_OURS.sub("", part.read_text("utf-8")) for part in parts)
    return f"from __future__ import annotations\n{text}".encode()
