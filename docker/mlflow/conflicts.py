"""Two artifacts of which one is named as the other's folder, `a` and `a/b`: S3 keeps both, a folder and VersityGW not.

What is copied from a store of the one kind into one of the other gets another name then, and nothing is left out. MinIO
keeps both and lists only the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
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


def unlisted(folder: str, mark: str = "xl.meta") -> Iterator[str]:
    """The names of the objects below a folder of MinIO's volume that it never lists: they lie below another object.

    MinIO keeps an object as a folder with a file ``mark``, and looks no further there when it lists.
    """
    within = ""  # the topmost object that we are in
    for top, folders, files in os.walk(folder):
        folders.sort()
        if within and not top.startswith(f"{within}/"):
            within = ""
        if mark in files:
            if within:
                yield os.path.relpath(top, folder)
            else:
                within = top


def print_unlisted(folder: str) -> None:
    for name in unlisted(folder):
        print(json.dumps(name))
