"""Every setting, declared once in the modules of ``declared``, by theme.

All else is derived from here: flags and their help, ``.env.example``, the settings page, what may be remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace

from helpers.settings.declaration import Setting
from helpers.settings.declared.access import Access
from helpers.settings.declared.backups import Backups
from helpers.settings.declared.cluster import Cluster
from helpers.settings.declared.images import ImagesAndLimits
from helpers.settings.declared.imports import Imports
from helpers.settings.declared.notebook import Notebook
from helpers.settings.declared.object_store import ObjectStore
from helpers.settings.declared.project import ProjectAndEngine
from helpers.settings.declared.remote_tracking import RemoteTracking
from helpers.settings.declared.server import TrackingServer


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)  # what is derived from it has them
class Declared(
    ProjectAndEngine,
    Notebook,
    TrackingServer,
    ObjectStore,
    Backups,
    Imports,
    Access,
    RemoteTracking,
    ImagesAndLimits,
    Cluster,
):
    """Every setting. The themes stand here in the order of the documents; the docstring of each is its heading."""


def _row(declared: Field[object], theme: type) -> Setting:
    row: Setting = declared.metadata["setting"]
    option = row.option or "--" + declared.name.replace("_", "-")
    return replace(row, name=declared.name.upper(), option=option, theme=str(theme.__doc__))


THEMES: tuple[str, ...] = tuple(str(theme.__doc__) for theme in Declared.__bases__)
TABLE: tuple[Setting, ...] = tuple(_row(declared, theme) for theme in Declared.__bases__ for declared in fields(theme))
BY_NAME: Mapping[str, Setting] = {row.name: row for row in TABLE}
BY_OPTION: Mapping[str, Setting] = {row.option: row for row in TABLE}
