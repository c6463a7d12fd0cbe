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


def _is_free(system: Project) -> Callable[[str, int], bool]:
    """What tells whether a port is free where the containers would be."""
    engine = select.current(system) if system.state.node or not system.state.engine else None
    return engine.host.is_free if engine else addresses.is_free


def beside(system: Project, name: str) -> Settings:
    """The same settings under another name, on ports that are free now. Raises SettingError."""
    ports = _free_ports(system)
    return system.settings.again(system.state.remembered, project=name, workspace="", **ports)


def _free_ports(system: Project) -> dict[str, str]:
    """Ports that are free where the containers would be, none of them this project's, by the fields of settings."""
    settings, free = system.settings, _is_free(system)
    own = [getattr(settings, field) for field in PORTS]  # the real system's, also when it is down
    taken: list[int] = []
    for field in PORTS:
        taken.append(addresses.next_free(settings.bind_address, getattr(settings, field) + 1, [*own, *taken], free))
    return dict(zip(PORTS, map(str, taken), strict=True))


def project(system: Project, name: str) -> Project:
    """The new or empty project ``name`` beside this one: its settings and engine, on ports that are free, not public.

    Raises SettingError for a name that is none, or where both would share a bucket.
    """
    settings = Settings.load(
        {"project": name, "state_dir": str(system.settings.state_dir)}, os.environ, system.settings.env_file, remembered
    )
    if settings.project == system.settings.project:
        raise SettingError(f"--into={name}: is this project itself; leave --into out to replace what is in it.")
    state = State.load(settings.folder)
    store = state.remembered.get("OBJECT_STORE", system.settings.object_store)
    if "external" in (store, system.settings.object_store):
        raise SettingError(
            "--into: OBJECT_STORE=external has one bucket, which two projects must not share; restore "
            "in a second clone with another S3_BUCKET."
        )
    inherited = {
        setting.lower(): value
        for setting, value in system.state.remembered.items()
        if system.settings.origin(setting) == LAST_UP and setting not in state.remembered
    }
    found = {
        **inherited,
        **{field: state.remembered.get(field.upper(), port) for field, port in _free_ports(system).items()},
        "project": name,
        "engine": state.engine or system.state.engine or system.settings.engine,
        "object_store": store,
        "public": "",
        "workspace": "",
    }
    return Project(system.settings.again(state.remembered, **found), state, aside=True)
