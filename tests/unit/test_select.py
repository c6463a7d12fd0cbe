"""Which engine is used, and what is said when it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.engines import select
from helpers.engines.base import Availability
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.errors import EngineUnavailable
from tests.unit.fakes import project

YES = Availability(True, True, "Docker 28")
NONE = Availability(False, False, "no Docker engine answers at /var/run/docker.sock", "see `invoke doctor`")
REFUSES = Availability(False, True, "permission denied at /var/run/docker.sock", "sudo usermod -aG docker $USER")


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Callable[[Availability], None]:
    def set_to(result: Availability) -> None:
        monkeypatch.setattr(DockerEngine, "availability", lambda self: result)
        monkeypatch.setattr(EmbeddedEngine, "availability", lambda self: Availability(True, True))

    return set_to


@pytest.mark.parametrize(
    ("asked", "kept", "found", "chosen", "said"),
    [
        ("auto", "", YES, "docker", "engine: docker"),
        ("auto", "", NONE, "embedded", "because no Docker engine answers"),
        ("auto", "embedded", YES, "embedded", ""),
        ("auto", "docker", YES, "docker", ""),
        ("embedded", "", YES, "embedded", ""),
        ("docker", "", YES, "docker", ""),
        ("docker", "docker", YES, "docker", ""),
    ],
)
def test_choice(
    tmp_path: Path,
    docker: Callable[[Availability], None],
    asked: str,
    kept: str,
    found: Availability,
    chosen: str,
    said: str,
) -> None:
    docker(found)
    one = project(tmp_path, engine=asked)
    one.state.engine = kept
    choice = select.choose(one)
    assert choice.engine.name == chosen
    assert (said in choice.notice) if said else choice.notice == ""


@pytest.mark.parametrize(
    ("asked", "kept", "found", "message", "hint"),
    [
        ("auto", "", REFUSES, "permission denied", "--engine=embedded"),
        ("docker", "", NONE, "no Docker engine answers", "--engine=embedded"),
        ("auto", "docker", NONE, "no Docker engine answers", "see `invoke doctor`"),
        ("embedded", "docker", YES, "data is kept by the docker engine", "`invoke move --to=embedded`"),
        ("docker", "embedded", YES, "data is kept by the embedded engine", "--project=NAME"),
    ],
)
def test_refusal(
    tmp_path: Path,
    docker: Callable[[Availability], None],
    asked: str,
    kept: str,
    found: Availability,
    message: str,
    hint: str,
) -> None:
    docker(found)
    one = project(tmp_path, engine=asked)
    one.state.engine = kept
    with pytest.raises(EngineUnavailable) as caught:
        select.choose(one)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert not kept or "to run without Docker" not in caught.value.hint, "that one would start with nothing"


def test_the_object_store_follows_the_engine(tmp_path: Path) -> None:
    assert select.make(project(tmp_path), "docker").object_store == "versitygw"
    assert select.make(project(tmp_path), "embedded").object_store == "folder"


@pytest.mark.parametrize(
    ("engine", "live", "store"),
    [
        ("docker", {}, "minio"),
        ("docker", {"store": "versitygw"}, "versitygw"),
        ("docker", {"store": "minio"}, "minio"),
        ("", {}, "versitygw"),
        ("", {"store": "minio"}, "minio"),
        ("embedded", {"store": "folder"}, "versitygw"),
    ],
)
def test_a_project_keeps_the_store_that_holds_its_data(
    tmp_path: Path, engine: str, live: dict[str, str], store: str
) -> None:
    created = project(tmp_path)
    created.state.engine = engine
    created.state.active.update(live)
    assert select.make(created, "docker").object_store == store
