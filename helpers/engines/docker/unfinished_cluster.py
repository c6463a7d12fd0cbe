"""A first start of PostgreSQL in a container that was killed before its data folder was finished.

The image's entry script takes a folder with a PG_VERSION for a database, also one that initdb did not finish. Such a
folder is made again when two things hold: it has no mark of a good start (``database_roles.READY``), and there is no
file in it that initdb does not make. What is given a number from 16384 on came later: a database, a table. So nothing
that anybody ever stored can be in it, and clusters of versions that set no mark are safe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from helpers.engines.database_roles import FIRST_OWN, READY

DATA = "18/docker"  # PGDATA in the volume, for every major
LISTED = "listed"
# In a container of the database's image, as its user, over the volume at /v. Without the last line nothing is known.
LOOK = f"""
echo "major $PG_MAJOR"
for file in /v/PG_VERSION /v/*/*/PG_VERSION; do [ -s "$file" ] && echo "version $(cat "$file")"; done
cd /v/{DATA} 2>/dev/null || exit 0
[ -e {READY} ] && {{ echo ready; exit 0; }}
[ -n "$(ls -A)" ] || exit 0
if [ -d base ]; then find base pg_tblspc -mindepth 1 -maxdepth 2 -printf 'file %f\\n' && echo {LISTED}
elif [ ! -e global/pg_control ]; then echo {LISTED}
fi
true
"""
REMOVE = f"cd /v/{DATA} && [ ! -e {READY} ] && find . -mindepth 1 -delete"


@dataclass(frozen=True)
class Folder:
    """What LOOK told: the image's major, those of the data in the volume, whether they are marked as good, and
    whether they are a first start that was not finished."""

    major: str
    versions: tuple[str, ...]
    ready: bool
    unfinished: bool


def read(text: str) -> Folder:
    """The lines of LOOK."""
    lines = [line.split(" ", 1) for line in text.splitlines()]
    given: dict[str, list[str]] = {}
    for word, *rest in lines:
        given.setdefault(word, []).append(rest[0] if rest else "")
    ready = "ready" in given
    return Folder(
        "".join(given.get("major", [])[:1]),
        tuple(given.get("version", [])),
        ready,
        not ready and LISTED in given and unused(given.get("file", [])),
    )


def unused(names: Iterable[str]) -> bool:
    """Whether files and folders below ``base`` and ``pg_tblspc`` are only such as initdb makes."""
    numbers = (re.match(r"t?(?:\d+_)?(\d+)", name) for name in names)
    return all(int(number[1]) < FIRST_OWN for number in numbers if number)
