"""Numbers of things in a sentence."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """As in "1 object" and "2 objects"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
