"""JupyterLab's search for language servers, without a start of Node.js.

Where npm is installed, jupyter-lsp runs `npm prefix -g` at each start of JupyterLab: 0.2 s of a processor while the
other services start. npm's answer is the folder above the one of Node.js, unless somebody has set another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASKS = "_npm_prefix"  # jupyter-lsp's method that runs npm
SYSTEM_FILE = Path("/etc/npmrc")  # of the distribution's npm
VARIABLES = ("PREFIX", "DESTDIR")  # that npm reads, besides its own NPM_CONFIG_...


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    """What Jupyter's server calls as it starts, after jupyter-lsp, which looks for language servers once it runs."""
    manager = getattr(server, "language_server_manager", None)
    if asks := getattr(manager, ASKS, None):
        setattr(manager, ASKS, lambda npm: prefix(npm, asks))


def prefix(npm: str, asks: Callable[[str], str | None]) -> str | None:
    """Where npm installs for everybody. ``asks``: runs npm, which knows what somebody has set."""
    node = shutil.which("node")
    if not node:
        return asks(npm)
    found = Path(node).resolve().parent.parent
    return asks(npm) if _is_set(npm, found) else str(found)


def _is_set(npm: str, found: Path) -> bool:
    """Whether a variable or a file of npm's may name another place."""
    if any(name in VARIABLES or name.lower().startswith("npm_config_") for name in os.environ):
        return True
    files = (
        Path.home() / ".npmrc",
        Path(".npmrc"),
        found / "etc" / "npmrc",
        SYSTEM_FILE,
        Path(npm).resolve().parent.parent / "npmrc",
    )
    return any(map(_names_a_prefix, files))


def _names_a_prefix(file: Path) -> bool:
    try:
        return b"prefix" in file.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True
