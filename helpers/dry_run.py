"""`up --dry-run`: the plan as the plain commands that a lab text would print. Starts nothing, holds no secret."""

from __future__ import annotations

import re
from dataclasses import replace

from helpers import gateway, second_project, start
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.errors import SettingError
from helpers.project import access
from helpers.project.project import Project


def script(project: Project, name_prefix: str = "") -> str:
    """A bash script that does by hand what ``up`` would do. With a prefix: other names and free ports.

    Refuses what ``up`` refuses, but for a GPU that this machine does not have: the script is for one that has it.
    Raises SettingError for a prefix that is no project name, EngineUnavailable as ``up`` would.
    """
    start.check_early(project.settings)
    gateway.resolve_address(project, lambda _: None)  # of PUBLIC: the script's gateway has to have a name, too
    settings = project.settings
    if name_prefix:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name_prefix):
            raise SettingError(
                f"--name-prefix={name_prefix}: must be 1 to 40 of a-z, 0-9, _ and -, the first a letter or digit."
            )
        settings = second_project.beside(project, name_prefix)
    # a script begins with nothing: a name that a restore gave to the active database is not known there
    state = replace(project.state, active={"database": "mlflow", "prefix": "live"})
    planned = replace(project, settings=settings, state=state, dry_run=True)
    engine = _engine(planned)
    start.check(planned, engine)
    access.decide(planned, engine.neighbours)
    return engine.script(engine.plan())


def _engine(project: Project) -> Engine:
    """The engine as ``up`` would choose it. A node has to be asked; here the plan can be made while it is down."""
    if project.state.engine and not project.state.node and project.settings.engine in ("auto", project.state.engine):
        return select.make(project, project.state.engine)
    return select.choose(project).engine
