"""What the unit tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from helpers.engines.docker import availability
from tests.unit.metadata_service import Serve, serving

# a loaded machine is no defect: the examples are bounded by their number
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def no_named_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer's shell names is not what a message has to name."""
    for name in ("TRACKBED_PROJECT", "TRACKBED_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test sees no Docker, whether this machine has one, has none, or closes it to this user."""
    monkeypatch.setattr(availability, "DEFAULT_SOCKET", "/nonexistent/docker.sock")
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts stand-ins of small HTTP services."""
    with serving() as start:
        yield start
