"""The nearest right word for a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str:
    """The word of ``words`` most like ``word`` (case does not count), or ""."""
    folded = {candidate.casefold(): candidate for candidate in words}
    result = get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)
    return folded[result[0]] if result else ""


def did_you_mean(suggestion: str) -> str:
    """`` Did you mean X?``, or nothing."""
    return f" Did you mean {suggestion}?" if suggestion else ""


def shown(text: str, limit: int = 60) -> str:
    """``text`` for an error line: no control characters, not endless."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
