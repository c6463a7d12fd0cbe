"""JupyterLab as `python -m jupyterlab` starts it, without a start of Node.js.

Where Node.js is installed, JupyterLab runs `yarn config` as it is imported: 0.45 s of a processor while the other
services start. It looks there for a registry of npm packages, in words that the yarn which it brings does not use, so
that it always finds none. The server asks no such registry: `jupyter labextension` does, in a process of its own.
"""

from __future__ import annotations

import importlib
import runpy
from contextlib import suppress
from typing import Any

ASKS = "_yarn_config"  # the function that runs yarn


def without_yarn(commands: Any) -> None:
    """Let JupyterLab's module of that name have what it has where there is no Node.js."""
    if hasattr(commands, ASKS):
        setattr(commands, ASKS, lambda logger: {"yarn config": {}, "npm config": {}})


def main() -> None:
    with suppress(Exception):  # JupyterLab itself says what is wrong with it
        without_yarn(importlib.import_module("jupyterlab.commands"))
    runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
