"""A project in a temporary folder, a silent progress reporter, modules that belong to no package, the server's entry."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers import clone
from helpers.project.deployment import Deployment
from helpers.project.project import Project
from helpers.project.state import State, remembered
from helpers.settings import BY_NAME, Settings
from tests.conftest import PATIENCE

ENTRY = clone.MLFLOW_FOLDER / "start.py"


def project(folder: Path, **given: str) -> Project:
    """A Project whose state and workspace lie in ``folder``: settings as flags, those without one as variables."""
    flags = {name: value for name, value in given.items() if name.upper() not in BY_NAME or BY_NAME[name.upper()].flag}
    variables = {f"TRACKBED_{name.upper()}": value for name, value in given.items() if name not in flags}
    settings = Settings.load(
        {"state_dir": str(folder / "state"), **flags},
        {"HOME": str(folder), **variables},
        folder / "clone" / ".env",
        remembered,
    )
    return Project(settings, State.load(settings.folder))


def deployed(settings: Settings, store: str = "versitygw") -> Deployment:
    """What holds of these settings on an engine with that object store."""
    return Deployment(Project(settings, State.load(settings.folder)), store)


def module_at(path: Path) -> Any:
    """The module in a file of an image."""
    spec = importlib.util.spec_from_file_location(f"trackbed_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def trackbed_mlflow(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The MLflow server's entry as a program with nothing but this environment."""
    return subprocess.run(
        [sys.executable, str(ENTRY), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Silent:
    """A progress reporter that keeps what was reported."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.states: list[tuple[str, str]] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def service(self, name: str, state: str, note: str = "") -> None:
        self.states.append((name, state))

    def amount(self, name: str, done: int, whole: int, note: str) -> None: ...

    def output(self, line: str) -> None:
        pass
