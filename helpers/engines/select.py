"""Which engine: what was asked for, what holds the data already, what this machine has."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.engines.base import Engine
from helpers.errors import EngineUnavailable
from helpers.findings import Finding, Level
from helpers.project.project import Project
from helpers.services import Availability
from helpers.settings import Settings

if TYPE_CHECKING:
    from helpers.engines.docker.engine import DockerEngine
    from helpers.engines.embedded.engine import EmbeddedEngine
    from helpers.engines.kubernetes.engine import KubernetesEngine

    Kind = type[DockerEngine] | type[EmbeddedEngine] | type[KubernetesEngine]

AUTO = "auto"


class Kinds(MutableMapping[str, "Kind"]):
    """Engines by name. Each is imported when it is asked for: a project needs one, and all are a fifth of the code."""

    def __init__(self, **places: str) -> None:
        self._places, self._imported = places, dict[str, "Kind"]()

    def __getitem__(self, name: str) -> Kind:
        if name not in self._imported:
            self._imported[name] = pkgutil.resolve_name(self._places[name])
        return self._imported[name]

    def __setitem__(self, name: str, kind: Kind) -> None:
        self._places.setdefault(name, "")
        self._imported[name] = kind

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._imported.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


# in the order in which they are tried
ENGINES = Kinds(
    docker="helpers.engines.docker.engine:DockerEngine",
    embedded="helpers.engines.embedded.engine:EmbeddedEngine",
    kubernetes="helpers.engines.kubernetes.engine:KubernetesEngine",
)


@dataclass(frozen=True)
class Choice:
    """The engine, and one line to tell when the user did not ask for it."""

    engine: Engine
    notice: str = ""


def make(project: Project, name: str) -> Engine:
    """The engine of that name. Nothing is asked of it yet. Raises SettingError for a store that it does not have."""
    created = ENGINES[name]
    project.settings.check_store(name, created.stores)
    return created(project)


def kind(name: str) -> type[Engine] | None:
    """What is true of all engines of that name; None for "auto"."""
    return ENGINES.get(name)


def presence(project: Project) -> list[Finding]:
    """What is found of the engines that could be this project's, and may be on this machine or not."""
    asked, kept = project.settings.engine, project.state.engine
    result: list[Finding] = []
    for name, kind in ENGINES.items():
        if (
            (asked == name or (asked == AUTO and (kind.is_automatic or kept == name)))
            and kept in ("", name)
            and project.settings.object_store in (AUTO, *kind.stores)
        ):
            others = () if kept else _others(name)  # no other one would start with this project's data
            instead = " or ".join(f"--engine={other.name}, which has {other.lacks}" for other in others)
            result += make(project, name).checks.presence(name in (asked, kept), instead)
    return result


def left_behind(project: Project, engine: Engine) -> list[Finding]:
    """Data of this project that other engines made in its state folder."""
    folders = {
        name: kind.left_behind(project.settings)
        for name, kind in ENGINES.items()
        if name not in (engine.name, project.state.engine)
    }
    return [
        Finding(
            Level.WARNING,
            "leftovers",
            f"{folder} holds data of the {name} engine",
            f"--engine={name} shows it; remove the folder when it is not wanted",
        )
        for name, folder in folders.items()
        if folder
    ]


def stay_off_at_boot(settings: Settings) -> tuple[str, ...]:
    """Take away what starts the project with the machine, whichever engine put it there. Gives what to tell."""
    return tuple(line for kind in ENGINES.values() for line in kind.stay_off_at_boot(settings))


def choose(project: Project) -> Choice:
    """The engine to use. Raises EngineUnavailable with the fix and the alternative.

    Data decides before anything else: where a project has some, its engine stays until the data is moved or removed.
    """
    asked, kept = project.settings.engine, project.state.engine
    if kept and asked not in (AUTO, kept):
        raise EngineUnavailable(
            f"this project's data is kept by the {kept} engine, ENGINE={asked} (from "
            f"{project.settings.origin('ENGINE')}) would start with nothing",
            f"leave ENGINE out; then `invoke up` goes on with {kept}, and `invoke move --to={asked}` takes the data "
            "there; or start another project beside it with --project=NAME",
        )
    if kept or asked != AUTO:
        engine = make(project, kept or asked)
        return Choice(_usable(engine, engine.availability(), kept))
    absent: dict[str, str] = {}
    for name in (name for name, kind in ENGINES.items() if kind.is_automatic):
        engine = make(project, name)
        result = engine.availability()
        if result.present:
            break
        absent[name] = result.reason
    _usable(engine, result)
    why = f", because {'; '.join(absent.values())}" if absent else f" ({result.reason})"
    lacks = f"; compared with {' and '.join(absent)}: {engine.lacks}" if absent and engine.lacks else ""
    return Choice(engine, f"engine: {engine.name}{why}{lacks}")


def current(project: Project) -> Engine:
    """The engine that holds this project, for commands that only look. Raises EngineUnavailable."""
    if project.state.engine:
        engine = make(project, project.state.engine)
        return _usable(engine, engine.availability(), engine.name)
    return choose(project).engine


def _usable(engine: Engine, availability: Availability, kept: str = "") -> Engine:
    """``kept``: the engine that holds this project's data, which no other one would start with."""
    if availability.usable:
        return engine
    others = () if kept else _others(engine.name)
    hint = "; or ".join(
        [availability.fix, *(f"`invoke up --engine={other.name}` {other.alternative}" for other in others)]
    )
    raise EngineUnavailable(f"the {engine.name} engine cannot be used: {availability.reason}", hint)


def _others(name: str) -> tuple[type[Engine], ...]:
    """The engines to offer where that one is not on this machine."""
    return tuple(other for other in ENGINES.values() if other.alternative and other.name != name)
