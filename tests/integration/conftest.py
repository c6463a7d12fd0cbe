"""Projects for the tests that restore: a restore gives the database another name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import Clone, docker_answers, require_docker


@pytest.fixture(scope="session")
def own(lasting_clones: Callable[..., Clone]) -> dict[str, Clone]:
    """A project on each engine that is here, for the tests that restore alone."""
    created = {name: lasting_clones(name) for name in ("embedded", *(["docker"] if docker_answers() else []))}
    for clone in created.values():
        clone.up()
    return created


@pytest.fixture(scope="session")
def pair(own: dict[str, Clone], engine: str) -> tuple[Clone, Clone]:
    """The project to back up, and the one of the other engine to restore into (the same, where there is one only)."""
    if engine == "docker":
        require_docker()
    other = {"docker": "embedded", "embedded": "docker"}[engine]
    return own[engine], own.get(other, own[engine])
