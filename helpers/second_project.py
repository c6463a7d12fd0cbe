"""A second project beside this one: its name, its workspace, ports that are free."""

from __future__ import annotations

import os
from collections.abc import Callable

from helpers import addresses
from helpers.engines import select
from helpers.errors import SettingError
from helpers.project.project import Project
from helpers.project.state import State, remembered
from helpers.settings import LAST_UP, Settings

PORTS = ("mlflow_port", "jupyter_port", "s3_port", "s3_console_port")


def _is_free(project: Project) -> Callable[[str, int], bool]:
    """What tells whether a port is free where the containers would be."""
    engine = select.current(project) if project.state.node or not project.state.engine else None
    return engine.host.is_free if engine else addresses.is_free


def beside(project: Project, name: str) -> Settings:
    """The same settings under another name, on ports that are free now. Raises SettingError."""
    ports = _free_ports(project)
    return project.settings.reload(project.state.remembered, project=name, workspace="", **ports)


def _free_ports(project: Project) -> dict[str, str]:
    """Ports that are free where the containers would be, none of them this project's, by the fields of settings."""
    settings, free = project.settings, _is_free(project)
    own = [getattr(settings, field) for field in PORTS]  # the real project's, also when it is down
    taken: list[int] = []
    for field in PORTS:
        taken.append(addresses.next_free(settings.bind_address, getattr(settings, field) + 1, [*own, *taken], free))
    return dict(zip(PORTS, map(str, taken), strict=True))


def project(project: Project, name: str) -> Project:
    """The new or empty project ``name`` beside this one: its settings and engine, on ports that are free, not public.

    Raises SettingError for a name that is none, or where both would share a bucket.
    """
    settings = Settings.load(
        {"project": name, "state_dir": str(project.settings.state_dir)},
        os.environ,
        project.settings.env_file,
        remembered,
    )
    if settings.project == project.settings.project:
        raise SettingError(f"--into={name}: is this project itself; leave --into out to replace what is in it.")
    state = State.load(settings.folder)
    store = state.remembered.get("OBJECT_STORE", project.settings.object_store)
    if "external" in (store, project.settings.object_store):
        raise SettingError(
            "--into: OBJECT_STORE=external has one bucket, which two projects must not share; restore "
            "in a second clone with another S3_BUCKET."
        )
    inherited = {
        setting.lower(): value
        for setting, value in project.state.remembered.items()
        if project.settings.origin(setting) == LAST_UP and setting not in state.remembered
    }
    result = {
        **inherited,
        **{field: state.remembered.get(field.upper(), port) for field, port in _free_ports(project).items()},
        "project": name,
        "engine": state.engine or project.state.engine or project.settings.engine,
        "object_store": store,
        "public": "",
        "workspace": "",
    }
    return Project(project.settings.reload(state.remembered, **result), state, aside=True)
