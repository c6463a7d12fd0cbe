"""`up --dry-run`: the plan as the plain commands that a lab text would print. Starts nothing, holds no secret."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from helpers import addresses, gateway
from helpers.engines import select
from helpers.errors import SettingError
from helpers.project import access
from helpers.project.project import Project
from helpers.settings import Settings, relevance

PORTS = ("mlflow_port", "jupyter_port", "s3_port", "s3_console_port")


def script(system: Project, name_prefix: str = "") -> str:
    """A bash script that does by hand what ``up`` would do. With a prefix: other names and free ports.

    Raises SettingError for a prefix that is no project name, EngineUnavailable as ``up`` would.
    """
    gateway.settle_address(system, lambda _: None)  # of PUBLIC: the script's gateway has to have a name, too
    settings = system.settings
    if name_prefix:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name_prefix):
            raise SettingError(
                f"--name-prefix={name_prefix}: must be 1 to 40 of a-z, 0-9, _ and -, the first a letter or digit."
            )
        settings = beside(settings, name_prefix, is_free(system))
    # a script begins with nothing: a name that a restore gave to the live database is not known there
    state = replace(system.state, live={"database": "mlflow", "prefix": "live"})
    kept = replace(system, settings=settings, state=state)
    # a node has to be asked; here the plan can be made while the engine is down
    known = system.state.engine and not system.state.node
    engine = select.make(kept, system.state.engine) if known else select.choose(kept).engine
    relevance.check(engine)
    gateway.check_settings(settings, engine, engine.host.url)
    access.decide(kept, engine.host.url)
    return engine.script(engine.plan())


def is_free(system: Project) -> Callable[[str, int], bool]:
    """What tells whether a port is free where the containers would be."""
    engine = select.current(system) if system.state.node or not system.state.engine else None
    return engine.host.is_free if engine else addresses.is_free


def beside(settings: Settings, name: str, free: Callable[[str, int], bool] = addresses.is_free) -> Settings:
    """The same settings under another name, on ports that are free now."""
    own = [getattr(settings, field) for field in PORTS]  # the real system's, also when it is down
    taken: list[int] = []
    for field in PORTS:
        taken.append(addresses.next_free(settings.bind_address, getattr(settings, field) + 1, [*own, *taken], free))
    workspace = settings.state_dir / name / "workspace"
    mlflow, jupyter, s3, console = taken
    return replace(
        settings,
        project=name,
        workspace=workspace,
        mlflow_port=mlflow,
        jupyter_port=jupyter,
        s3_port=s3,
        s3_console_port=console,
    )
