"""Which engine: what was asked for, what holds the data already, what this machine has."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.engines.base import Engine
from helpers.engines.docker import checks
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.errors import EngineUnavailable
from helpers.findings import Finding
from helpers.project.project import Project
from helpers.services import Availability

ENGINES: dict[str, type[DockerEngine] | type[EmbeddedEngine]] = {"docker": DockerEngine, "embedded": EmbeddedEngine}
LACKS = (
    "no S3 store (artifacts are files in the state folder), no network of its own for each service, no restart at boot"
)


@dataclass(frozen=True)
class Choice:
    """The engine, and one line to tell when the user did not ask for it."""

    engine: Engine
    notice: str = ""


def make(project: Project, name: str) -> Engine:
    """The engine of that name. Nothing is asked of it yet. Raises SettingError for a store that it does not have."""
    made = ENGINES[name]
    project.settings.check_store(name, made.stores)
    return made(project)


def docker(project: Project) -> DockerEngine:
    """Docker's, for what nothing else does: building images."""
    return DockerEngine(project)


def kind(name: str) -> type[Engine] | None:
    """What is true of all engines of that name; None for "auto"."""
    return ENGINES.get(name)


def considered(project: Project) -> list[Finding]:
    """What is found of an engine that may be there or not, which is Docker's, where it is one to be asked."""
    asked, kept = project.settings.engine, project.state.engine
    if (
        asked not in ("auto", DockerEngine.name)
        or kept not in ("", DockerEngine.name)
        or project.settings.object_store == "folder"
    ):
        return []
    return [
        checks.there(
            docker(project).availability(), DockerEngine.name in (asked, kept), f"--engine=embedded, which has {LACKS}"
        )
    ]


def choose(project: Project) -> Choice:
    """The engine to use. Raises EngineUnavailable with the fix and the alternative.

    Data decides before anything else: where a system has some, its engine stays until the data is moved or removed.
    """
    asked, kept = project.settings.engine, project.state.engine
    if kept and asked not in ("auto", kept):
        raise EngineUnavailable(
            f"this project's data is kept by the {kept} engine, ENGINE={asked} (from "
            f"{project.settings.origin('ENGINE')}) would start with nothing",
            f"leave ENGINE out to go on with {kept}; --project=NAME starts another system beside it; "
            "`invoke down --delete-data` gives this one up",
        )
    if kept or asked != "auto":
        engine = make(project, kept or asked)
        return Choice(_usable(engine, engine.availability(), kept))
    docker = make(project, "docker")
    there = docker.availability()
    if there.usable:
        return Choice(docker, f"engine: docker ({there.reason})")
    if there.present:
        return Choice(_usable(docker, there))
    embedded = make(project, "embedded")
    _usable(embedded, embedded.availability())
    return Choice(embedded, f"engine: embedded, because {there.reason}; compared with docker: {LACKS}")


def current(project: Project) -> Engine:
    """The engine that holds this project's system, for commands that only look. Raises EngineUnavailable."""
    if project.state.engine:
        engine = make(project, project.state.engine)
        return _usable(engine, engine.availability(), engine.name)
    return choose(project).engine


def _usable(engine: Engine, found: Availability, kept: str = "") -> Engine:
    """``kept``: the engine that holds this project's data, which no other one would start with."""
    if found.usable:
        return engine
    other = "" if kept or engine.name == "embedded" else "; or `--engine=embedded` to run without Docker"
    raise EngineUnavailable(f"the {engine.name} engine cannot be used: {found.reason}", f"{found.fix}{other}")
