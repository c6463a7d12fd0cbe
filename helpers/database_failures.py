"""Why PostgreSQL does not start, by the words of its log, and what helps. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable

BACKUP = (
    "nothing was changed. A backup brings everything back: `invoke restore FILE --into=NAME` as a second project "
    "beside this one; in its place: `invoke down --delete-data`, `invoke up`, `invoke restore FILE`"
)
DAMAGED = "the database's files are damaged"
SERIOUS = re.compile("FATAL:|PANIC:|ERROR:|HINT:|Permission denied|No space left|Read-only file|initdb: error")
# the first that is found in a line, newest line first: what it means, what to do
KNOWN = (
    (
        r"could not locate a valid checkpoint record|invalid (primary |secondary )?checkpoint|"
        r"could not (open|read|find|access) (file|directory|status of transaction).*(pg_wal|pg_xact|pg_multixact|"
        r"pg_control|pg_filenode\.map|backup_label|\"base)|incorrect checksum in control file|"
        r"required WAL directory|(FATAL|PANIC).*(No such file or directory|Input/output error)|"
        r"invalid magic number|invalid page in block|could not find redo location|"
        r"database files are (incompatible|corrupt)|could not read .*\"(global|base|pg_\w+)|"
        r"is not a valid data directory|"
        # its PG_VERSION is lost, the mark of a good start is not
        r"initdb: error: directory .* exists but is not empty|"
        r"relation mapping file .* contains (invalid data|incorrect checksum)",
        DAMAGED,
        BACKUP,
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "the disk that holds the database is full",
        "free some (`df -h` shows where it is full), then type `invoke up`; no acknowledged write is lost",
    ),
    (
        r"Read-only file system",
        "the file system that holds the database is read-only",
        "`dmesg | tail` usually says why; fix that (`mount -o remount,rw`), then type `invoke up`",
    ),
    (
        r"has wrong ownership|must be started by the user that owns|has invalid permissions|has group or world access|"
        r"could not (open|access|create|read|write).*(postmaster\.pid|PG_VERSION|postgresql\.conf|lock file|data "
        r"directory|pg_control).*Permission denied|(mkdir|chmod|cd|can't create).*Permission denied",
        "the database's folder is not PostgreSQL's any more",
        "give it back to the account that PostgreSQL runs as (`chown -R`; `chmod 700` the folder itself), "
        "then type `invoke up`",
    ),
    (
        r"could not map anonymous shared memory|could not create shared memory|Cannot allocate memory|out of memory",
        "there is not enough memory for the database",
        "stop something else, then type `invoke up`",
    ),
    (
        r"lock file .* already exists|Is another (postmaster|postgres)|pre-existing shared memory block",
        "another PostgreSQL works on this project's data, or seems to",
        "stop it (`ps aux | grep postgres` shows it), then type `invoke up`",
    ),
)


def explain(lines: Iterable[str]) -> tuple[str, str] | None:
    """What PostgreSQL's last lines mean and what to do now; None where they are not known."""
    for line in reversed(list(lines)):
        if not SERIOUS.search(line):
            continue
        for pattern, means, fix in KNOWN:
            if re.search(pattern, line):
                said = re.sub(r"^.*?(FATAL|PANIC|ERROR|HINT):\s*", "", line).strip()
                return f"{means}: {said}", fix
    return None
