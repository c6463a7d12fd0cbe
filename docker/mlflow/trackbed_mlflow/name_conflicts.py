"""Two artifacts of which one is named as the other's folder, `a` and `a/b`: S3 keeps both, a folder and VersityGW not.

What is copied from a store of the one kind into one of the other gets another name then, and nothing is left out. MinIO
keeps both and lists only the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import accumulate, count

# VersityGW's words for them
PARENT_IS_FILE, IS_FOLDER = "ObjectParentIsFile", "ExistingObjectIsDirectory"
LONGEST = 200  # bytes of a name that is chosen; 255 is a file's, and VersityGW puts 28 more around one that it replaces

UNLISTED = frozenset("\ufffe\uffff")  # XML has neither, and VersityGW lists U+FFFD in their place


def unlisted_by_xml(name: str) -> bool:
    """Whether VersityGW would list an object by another name than its own: no list and no backup would lead to it."""
    return not UNLISTED.isdisjoint(name)


def true_names(listed: str) -> list[str]:
    """The names that an object of VersityGW may have in truth, the most likely first. They are mixed by nobody."""
    return [listed, *(listed.replace("\ufffd", each) for each in sorted(UNLISTED) if "\ufffd" in listed)]


def above(name: str) -> list[str]:
    """Every folder above a name, the topmost first."""
    return list(accumulate(name.split("/")[:-1], lambda upper, word: f"{upper}/{word}"))


class Names:
    """The names that the objects of one run get in a store that does not keep both. For one thread.

    A folder beside a file of its name gets another one, and all below it go there; so does a file beside a folder. The
    other name is one that nothing has so far, and an object of the run that has it itself gets another in its turn: no
    two objects ever meet. ``is_file`` and ``is_free`` look into the store.
    """

    def __init__(self, is_file: Callable[[str], bool], is_free: Callable[[str], bool]) -> None:
        self._is_file, self._is_free = is_file, is_free
        self._instead: dict[str, str] = {}  # by the name in the run, a folder's with a slash behind it
        self._chosen: set[str] = set()

    def of(self, name: str) -> str:
        """The name to store an object by."""
        if not self._chosen:
            return name
        *folders, last = name.split("/")
        old = new = ""
        for word in folders:
            old, new = f"{old}{word}/", f"{new}{word}"
            if old not in self._instead and new in self._chosen:
                self._instead[old] = self._choose(new, "folder")
            new = f"{self._instead.get(old, new)}/"
        if name not in self._instead and new + last in self._chosen:
            self._instead[name] = self._choose(new + last, "file")
        return self._instead.get(name, new + last)

    def below_file(self, name: str, tried: str) -> str:
        """The name instead of ``tried``, because something above that is a file."""
        for old, new in zip(above(name), above(tried), strict=True):
            if self._is_file(new):
                self._instead[f"{old}/"] = self._choose(new, "folder")
                self._instead.pop(name, None)
                return self.of(name)
        return self.is_folder(name, tried)

    def is_folder(self, name: str, tried: str) -> str:
        """The name instead of ``tried``, because that is a folder."""
        self._instead[name] = self._choose(tried, "file")
        return self._instead[name]

    def _choose(self, name: str, kind: str) -> str:
        upper, slash, last = name.rpartition("/")
        for number in count(1):
            mark = f" ({kind})" if number == 1 else f" ({kind} {number})"
            short = last.encode("utf-8", "surrogateescape")[: LONGEST - len(mark)].decode("utf-8", "ignore")
            result = f"{upper}{slash}{short}{mark}"
            if result not in self._chosen and self._is_free(result):
                self._chosen.add(result)
                return result
        raise AssertionError("numbers do not end")


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
