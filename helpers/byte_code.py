"""Byte code of the toolkit's modules. Invoke forbids Python to keep it, and compiling them all takes half a second."""

# tasks.py imports this before the modules that are to be kept: it has an effect when it is imported.
from __future__ import annotations

import os
import sys
from pathlib import Path

CLONE = Path(__file__).resolve().parent.parent


def is_kept(clone: Path) -> bool:
    """Whether Python may keep it in ``clone``: nobody said otherwise, and the clone is this user's.

    The owner could not remove what root left there (`sudo invoke up`), and `git clean` would fail.
    """
    try:
        return not sys.flags.dont_write_bytecode and clone.stat().st_uid == os.geteuid()
    except OSError:
        return False


sys.dont_write_bytecode = not is_kept(CLONE)
