"""A system in a temporary folder, a sink that only remembers, and modules that belong to no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from helpers.settings import Settings
from helpers.state import State
from helpers.system import System


def system(folder: Path, **flags: str) -> System:
    """A System whose state and workspace lie in ``folder``."""
    settings = Settings.load({"state_dir": str(folder / "state"), **flags}, {"HOME": str(folder)},
                             folder / "clone" / ".env")
    return System(settings, State.load(settings.folder))


def module_at(path: Path) -> Any:
    """The module in a file of an image."""
    spec = importlib.util.spec_from_file_location(f"trackbed_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Silent:
    """A sink that keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.states: list[tuple[str, str]] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def part(self, name: str, state: str, note: str = "") -> None:
        self.states.append((name, state))

    def amount(self, name: str, done: int, whole: int, note: str) -> None: ...

    def output(self, line: str) -> None:
        pass
