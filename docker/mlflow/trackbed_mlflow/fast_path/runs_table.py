"""The table of runs on MLflow's page makes the rows in the window and a few more, instead of a hundred.

One number in one script of the page says how many rows beyond the window the table keeps. That script, and the one that
names it, get addresses of their own, because a browser keeps a script for weeks. Where either text is not found exactly
once, the page stays MLflow's own.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

PART = "table of runs"
MAIN = re.compile(r'(?<=src="static-files/)static/js/main\.\w+\.js(?=")')  # in the page
TABLE = "static/js/3793.0117dc93.chunk.js"  # of the MLflow that the fast path is written for
OWN, SMALLER = b"rowBuffer:101", b"rowBuffer:10"  # ag-grid's own default


@dataclass(frozen=True)
class Script:
    """One of MLflow's files with one text in it replaced, and its address in the folder of the page's files."""

    source: Path
    old: bytes
    new: bytes
    address: str

    def content(self) -> bytes:
        return self.source.read_bytes().replace(self.old, self.new)


def changed(folder: Path, name: str, old: bytes, new: bytes) -> Script:
    """Raises LookupError where ``old`` is not in the file exactly once."""
    try:
        count = (folder / name).read_bytes().count(old)
    except OSError as error:
        raise LookupError(f"{name}: {error.strerror}") from None
    if count != 1:
        raise LookupError(f"{old.decode()} is {count} times in {name}, not once")
    # MLflow's name has a hash of its content: together with the change it tells the new content
    mark = hashlib.sha256(b"\n".join((name.encode(), old, new))).hexdigest()[:8]
    return Script(folder / name, old, new, name.replace(name.split(".")[1], mark))


def with_smaller_buffer(page: str, folder: Path) -> tuple[str, tuple[Script, ...]]:
    """MLflow's page with the address of its changed main script, and the scripts to serve."""
    if len(names := MAIN.findall(page)) != 1:
        raise LookupError(f"the page has {len(names)} main scripts, not one")
    table = changed(folder, TABLE, OWN, SMALLER)
    main = changed(folder, names[0], TABLE.encode(), table.address.encode())
    return page.replace(names[0], main.address), (main, table)
