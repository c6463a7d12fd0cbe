"""Where a setting means something: a flag that would do nothing is an error, another value is named by `doctor`.

Each row of the settings' table says in ``only`` what has to hold; this module says what those words mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from helpers.errors import SettingError
from helpers.gpu import accelerator, node_types
from helpers.settings.declaration import Setting
from helpers.settings.model import BY_NAME, TABLE
from helpers.settings.resolved import Settings
from helpers.settings.sources import DEFAULT, LAST_UP


class Profile(Protocol):
    """What is asked of a deployment."""

    @property
    def is_public(self) -> bool: ...

    @property
    def notebook_only(self) -> bool: ...


class Chosen(Protocol):
    """What is asked of an engine."""

    name: ClassVar[str]
    runs_containers: ClassVar[bool]
    in_cluster: ClassVar[bool]
    can_be_public: ClassVar[bool]

    @property
    def settings(self) -> Settings: ...

    @property
    def deployment(self) -> Profile: ...

    @property
    def object_store(self) -> str: ...

    @property
    def accelerator(self) -> accelerator.Accelerator: ...


@dataclass(frozen=True)
class Condition:
    """``holds`` on an engine; ``otherwise`` completes "S3_PORT has no effect ...", with ``{engine}`` for its name."""

    holds: Callable[[Chosen], bool]
    otherwise: str


CONDITIONS: Mapping[str, Condition] = {
    "containers": Condition(lambda e: e.runs_containers, "on the {engine} engine"),
    "cluster": Condition(lambda e: e.in_cluster, "on the {engine} engine, which is no cluster"),
    "machine": Condition(lambda e: not e.in_cluster, "on the {engine} engine, whose nodes are not this machine"),
    "data": Condition(
        lambda e: e.runs_containers or e.settings.data_folder.is_dir(),  # an absolute name is that folder itself
        "on the {engine} engine, where there is no data set of that name",
    ),
    "public": Condition(lambda e: e.deployment.is_public, "without --public (PUBLIC=true)"),
    "private": Condition(lambda e: not e.deployment.is_public, "with PUBLIC=true"),
    "server": Condition(lambda e: not e.deployment.notebook_only, "where only the notebook is started (TRACKING_URI)"),
    "jobs": Condition(lambda e: e.settings.mlflow_jobs == "on", "without MLFLOW_JOBS=on"),
    "remote": Condition(lambda e: e.deployment.notebook_only, "without TRACKING_URI"),
    "own-store": Condition(lambda e: e.object_store != "external", "with OBJECT_STORE=external"),
    "s3": Condition(
        lambda e: e.object_store != "folder",
        "on the {engine} engine, where artifacts are files in the state folder",
    ),
    "gpu": Condition(lambda e: True, "without a GPU"),  # only the engine can tell: ``without_effect`` is told
}


def without_effect(setting: Setting, engine: Chosen, gpu: bool = True) -> str:
    """Why a setting does nothing here, as in "on the embedded engine"; "" where it does something."""
    for word in setting.only:
        if not CONDITIONS[word].holds(engine) or (word == "gpu" and not gpu):
            return CONDITIONS[word].otherwise.format(engine=engine.name)
    return ""


def check(engine: Chosen) -> None:
    """Raise SettingError for a flag of this command line that would do nothing, with what to use instead.

    Whether the notebook gets a GPU is asked only when it matters.
    """
    settings = engine.settings
    for setting in TABLE:
        origin = settings.origin(setting.name)
        if not origin.startswith("--"):
            continue
        may_matter = "gpu" not in setting.only or settings.explicit.get(setting.name) == setting.default
        if why := without_effect(setting, engine, may_matter or engine.accelerator.kind != node_types.NONE):
            raise SettingError(f"{_given(setting, settings)} has no effect {why}.", _instead(setting, engine))


def _given(setting: Setting, settings: Settings) -> str:
    raw = settings.explicit.get(setting.name, "")
    return f"{setting.option}={raw}" if raw and not setting.secret else setting.option


def _instead(setting: Setting, engine: Chosen) -> str:
    if "public" in setting.only and engine.can_be_public:
        return f"give --public too, or leave {setting.option} out"
    return setting.instead or f"leave {setting.option} out"


def idle(engine: Chosen, gpu: bool = True) -> dict[str, list[str]]:
    """Settings from .env, the environment or an earlier `up` that do nothing here: reason -> names with origins."""
    result: dict[str, list[str]] = {}
    for name, origin in engine.settings.origins.items():
        if origin == DEFAULT or origin.startswith("--") or name not in BY_NAME:
            continue
        if why := without_effect(BY_NAME[name], engine, gpu):
            result.setdefault(why, []).append(name if origin == LAST_UP else f"{name} ({origin})")
    return result
