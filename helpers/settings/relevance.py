"""Where a setting means something: a flag that would do nothing is an error, another value is named by `doctor`.

Each row of the settings' table says in ``only`` what has to hold; this module says what those words mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from helpers.errors import SettingError
from helpers.gpu import accelerator, node_types
from helpers.settings.model import BY_NAME, TABLE, Setting
from helpers.settings.resolved import Settings
from helpers.settings.sources import DEFAULT, LAST_UP


class Chosen(Protocol):
    """What is asked of an engine."""

    @property
    def settings(self) -> Settings: ...

    @property
    def accelerator(self) -> accelerator.Accelerator: ...


@dataclass(frozen=True)
class Condition:
    """``holds`` for settings of a chosen engine; ``otherwise`` completes "S3_PORT has no effect ..."."""

    holds: Callable[[Settings], bool]
    otherwise: str


CONDITIONS: Mapping[str, Condition] = {
    "docker": Condition(lambda s: s.engine == "docker", "on the embedded engine"),
    "data": Condition(
        lambda s: s.engine == "docker" or s.data_volume.startswith("/"),
        "on the embedded engine, which has no Docker volumes",
    ),
    "public": Condition(lambda s: s.public, "without --public (PUBLIC=true)"),
    "private": Condition(lambda s: not s.public, "with PUBLIC=true"),
    "server": Condition(lambda s: not s.tracking_uri, "where only the notebook is started (TRACKING_URI)"),
    "jobs": Condition(lambda s: s.mlflow_jobs == "on", "without MLFLOW_JOBS=on"),
    "remote": Condition(lambda s: bool(s.tracking_uri), "without TRACKING_URI"),
    "own-store": Condition(lambda s: s.object_store != "external", "with OBJECT_STORE=external"),
    "s3": Condition(
        lambda s: s.engine == "docker" or s.object_store == "external",
        "on the embedded engine, where artifacts are files in the state folder",
    ),
    "gpu": Condition(lambda s: True, "without a GPU"),  # only the engine can tell: ``refuse_flags``
}


def without_effect(setting: Setting, settings: Settings, gpu: bool = True) -> str:
    """Why a setting does nothing here, as in "on the embedded engine"; "" where it does something."""
    for word in setting.only:
        if not CONDITIONS[word].holds(settings) or (word == "gpu" and not gpu):
            return CONDITIONS[word].otherwise
    return ""


def refuse_flags(settings: Settings, gpu: Callable[[], bool] = lambda: True) -> None:
    """Raise SettingError for a flag of this command line that would do nothing, with what to use instead.

    ``gpu``: whether the notebook gets one; asked only when it matters.
    """
    for setting in TABLE:
        origin = settings.origin(setting.name)
        if not origin.startswith("--"):
            continue
        seen = "gpu" not in setting.only or settings.told.get(setting.name) == setting.default or gpu()
        if why := without_effect(setting, settings, seen):
            raise SettingError(f"{_given(setting, settings)} has no effect {why}.", _instead(setting, settings))


def check(engine: Chosen) -> None:
    """The same for the settings of an engine, before anything is made."""
    refuse_flags(engine.settings, lambda: engine.accelerator.kind != node_types.NONE)


def _given(setting: Setting, settings: Settings) -> str:
    raw = settings.told.get(setting.name, "")
    return f"{setting.option}={raw}" if raw and not setting.secret else setting.option


def _instead(setting: Setting, settings: Settings) -> str:
    if "public" in setting.only and settings.engine == "docker":
        return f"give --public too, or leave {setting.option} out"
    return setting.instead or f"leave {setting.option} out"


def idle(settings: Settings, gpu: bool = True) -> dict[str, list[str]]:
    """Settings from .env, the environment or an earlier `up` that do nothing here: reason -> names with origins."""
    found: dict[str, list[str]] = {}
    for name, origin in settings.origins.items():
        if origin == DEFAULT or origin.startswith("--") or name not in BY_NAME:
            continue
        if why := without_effect(BY_NAME[name], settings, gpu):
            found.setdefault(why, []).append(name if origin == LAST_UP else f"{name} ({origin})")
    return found
