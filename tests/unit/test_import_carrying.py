"""Artifacts beside those that a project has (helpers/imports/beside.py): what is stored, kept, and never written over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest

from helpers.backups import disk_space
from helpers.data import artifacts
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.imports import beside
from helpers.imports.places import Folder, Survey
from helpers.imports.sources import FOLDER, Source
from tests.unit.fakes import Silent


class Watch:
    def __init__(self, engine: object) -> None: ...

    def object(self, size: int) -> None: ...

    def took(self, size: int) -> None: ...


class Store:
    """The objects of a project, by name. ``grow``: a file that comes into the source once its names were read."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.written: list[str] = []
        self.grow: Path | None = None

    def digests(self, engine: object, names: Iterable[str]) -> Iterator[tuple[str, int] | None]:
        asked = list(names)
        if self.grow:
            self.grow.write_text("new")
        for name in asked:
            content = self.held.get(name)
            yield None if content is None else (hashlib.sha256(content).hexdigest(), len(content))

    def write(self, engine: object, prefix: str, objects: Iterator[tuple[str, int, IO[bytes]]]) -> dict[str, str]:
        for name, _, stream in objects:
            self.held[name] = b"".join(iter(lambda stream=stream: stream.read(2**20), b""))  # type: ignore[misc]
            self.written.append(name)
        return {}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    result = Store()
    monkeypatch.setattr(artifacts, "digests", result.digests)
    monkeypatch.setattr(artifacts, "write", result.write)
    monkeypatch.setattr(disk_space, "Watch", Watch)
    return result


def carry(root: Path, known: bool) -> list[str]:
    said: list[str] = []
    survey: Any = Survey([Folder(root, "", "1/r/artifacts", known)])
    engine = cast("Engine", None)
    beside.carry(engine, Source(FOLDER, root), "live", survey, Silent(), said.append, lambda: None)
    return said


def test_what_a_run_here_has_stays_and_what_it_has_not_comes(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    store.held = {"1/r/artifacts/a": b"a", "1/r/artifacts/b": b"mine"}
    assert carry(tmp_path, True) == [
        "artifact 1/r/artifacts/b is another one here than in the source: it stays as it is here"
    ]
    assert store.written == ["1/r/artifacts/c"] and store.held["1/r/artifacts/b"] == b"mine"


def test_what_an_interrupted_import_stored_is_compared(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    store.held = {"1/r/artifacts/a": b"a", "1/r/artifacts/b": b"p"}
    assert carry(tmp_path, False) == [] and store.written == ["1/r/artifacts/b"]


def test_a_source_that_grows_meanwhile_never_lets_an_artifact_be_written_over(store: Store, tmp_path: Path) -> None:
    """Before, each answer was taken for the next file's."""
    (tmp_path / "z").mkdir()
    for name in ("first", "z/b", "z/c"):
        (tmp_path / name).write_text(name)
    store.held = {f"1/r/artifacts/{name}": b"mine" for name in ("first", "z/c")}
    store.grow = tmp_path / "z" / "a"
    with pytest.raises(TrackbedError, match="was not there a moment ago") as caught:
        carry(tmp_path, True)
    assert "stop what writes to the source" in caught.value.hint and set(store.held.values()) == {b"mine"}
