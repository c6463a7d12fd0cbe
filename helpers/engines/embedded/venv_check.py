"""Finds a file that a venv's packages list and that is not there, or was emptied by a power cut.

Run by that venv's Python, which shows that it starts, and side by side for several venvs; nothing but the standard
library is there.

    venv_check.py SITE MARKER [upgraded]      prints the file, or nothing. MARKER lists the packages
"""

from __future__ import annotations

import csv
import os
import sys


def missing_file(site: str, packages: list[str], upgraded: bool) -> str:
    """ "" when all is there. ``upgraded``: another version of a package is as good."""
    for name in packages:
        try:
            with open(os.path.join(site, name, "RECORD"), newline="", encoding="utf-8") as stream:
                rows = [row for row in csv.reader(stream) if row]
            if not rows:
                return name  # emptied by a power cut
        except (ValueError, csv.Error):
            return name  # no text any more
        except OSError:
            if upgraded and _has_another(site, name.split("-")[0] + "-"):
                continue
            return name
        for path, *more in rows:
            if path.endswith((".py", ".so", "/postgres")) and not _whole(os.path.join(site, path), more):
                return path
    return ""


def _has_another(site: str, beginning: str) -> bool:
    return any(name.startswith(beginning) and name.endswith(".dist-info") for name in os.listdir(site))


def _whole(path: str, more: list[str]) -> bool:
    """Is it there, and not emptied? ``more``: hash and size of a RECORD."""
    try:
        return bool(os.stat(path).st_size) or more[-1:] in ([], [""], ["0"])
    except (OSError, ValueError):
        return False


def main(site: str, marker: str, upgraded: str = "") -> None:
    with open(marker, encoding="utf-8") as stream:
        packages = stream.read().split()
    sys.stdout.buffer.write(missing_file(site, packages, bool(upgraded)).encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main(*sys.argv[1:])
