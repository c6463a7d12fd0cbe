"""Two artifacts of which one is named as the other's folder, `a` and `a/b`: S3 keeps both, a folder and VersityGW not.

What is copied from a store of the one kind into one of the other gets another name then, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

# VersityGW's words for them
PARENT_IS_FILE, IS_FOLDER = "ObjectParentIsFile", "ExistingObjectIsDirectory"


def above(name: str) -> list[str]:
    """Every folder above a name, the topmost first."""
    return list(accumulate(name.split("/")[:-1], lambda upper, word: f"{upper}/{word}"))


def beside_folder(name: str) -> str:
    """For a file where a folder of that name is."""
    return f"{name} (file)"


def beside_file(name: str, is_file: Callable[[str], bool]) -> str:
    """For a file below something that is a file itself."""
    for parent in above(name):
        if is_file(parent):
            return f"{parent} (folder){name[len(parent):]}"
    return beside_folder(name)
