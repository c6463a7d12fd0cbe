"""The steps of a benchmark with projects of its own: one by its name, or all, after which the projects go."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol


class System(Protocol):
    """A project of the benchmark."""

    def invoke(self, *words: str) -> object: ...


def folder(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Path:
    """The folder of the projects, which stays between steps."""
    if args.step and not args.folder:
        parser.error("a single step needs --folder=DIR, the same for all")
    result = Path(args.folder or tempfile.mkdtemp(prefix="trackbed-bench-"))
    result.mkdir(exist_ok=True)
    result.chmod(0o755)  # the services' accounts go through it
    return result


def machine(args: argparse.Namespace, before: tuple[float, float, float]) -> dict[str, Any]:
    """What stands beside the figures; ``before``: the load when the measuring began."""
    return {
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
        "engine": args.engine,
        "rounds": args.rounds,
        "load": [before, os.getloadavg()],
    }


def run(step: str | None, steps: Mapping[str, Callable[[], None]], systems: Iterable[System], place: Path) -> None:
    """The one ``step``, or all in their order and then `remove`: the projects and their folder."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the projects are taken down
    try:
        for name, one in steps.items():
            if step in (None, name):
                one()
    finally:
        if step in (None, "remove"):
            for system in systems:
                system.invoke("down", "--delete-data", "--yes")
            shutil.rmtree(place)
