"""Where a project's Unix sockets are, whose paths may have only so many bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

LIMIT = 107  # bytes of a Unix socket's path


def choose(own: Path, longest: str, as_root: bool) -> Path:
    """``own``, or a short one where ``longest``, a socket's name in it, would not fit.

    Not XDG_RUNTIME_DIR: that goes away when the user logs out.
    """
    if len(os.fsencode(f"{own}{longest}")) <= LIMIT:
        return own
    short = hashlib.sha256(os.fsencode(str(own))).hexdigest()[:8]
    if as_root:  # never below /tmp, where every account may put something first
        return Path("/run" if os.path.isdir("/run") else "/var/run", "trackbed", short)
    return Path(f"/tmp/trackbed-{os.geteuid()}-{short}")
