"""Commands as lists of words, which are run as they are and printed as a shell reads them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


class ShellText(str):
    """Text for a shell to expand, as in ``"$PORT"``: printed as it is. For printing only."""

    __slots__ = ()


def line(argv: Iterable[str]) -> str:
    """The words as one line of a script."""
    return " ".join(word if isinstance(word, ShellText) else shlex.quote(word) for word in argv)
