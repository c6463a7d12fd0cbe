"""Artifacts beside those that a project has (helpers/imports/beside.py): what is stored, kept, and never written over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pytest

from helpers.backups import disk_space, unpack
from helpers.data import artifacts, journal
from helpers.data.checksum import SetSum
from helpers.engines.base import Engine
from helpers.errors import TrackbedError
from helpers.imports import beside, carrying
from helpers.imports.places import Folder, Survey
from helpers.imports.sources import FOLDER, Source
from helpers.project.project import Project
from tests.unit.fakes import Silent, project


class Watch:
    def __init__(self, engine: object) -> None: ...

    def object(self, size: int) -> None: ...

    def took(self, size: int) -> None: ...


class Store:
    """The objects of a project, by name. ``grow``: a file that comes into the source once its names were read."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.written: list[str] = []
        self.dropped: list[str] = []
        self.grow: Path | None = None

    def digests(self, engine: object, names: Iterable[str]) -> Iterator[tuple[str, int] | None]:
        asked = list(names)
        if self.grow:
            self.grow.write_text("new")
        for name in asked:
            content = self.held.get(name)
            yield None if content is None else (hashlib.sha256(content).hexdigest(), len(content))

    def write(self, engine: object, prefix: str, objects: Iterator[tuple[str, int, IO[bytes]]]) -> artifacts.Written:
        for name, _, stream in objects:
            self.held[name] = b"".join(iter(lambda stream=stream: stream.read(2**20), b""))  # type: ignore[misc]
            self.written.append(name)
        return artifacts.Written({})

    def sums(self, engine: object, prefix: str, renamed: dict[str, str], *_: object) -> tuple[SetSum, int]:
        result = SetSum()
        for name, content in self.held.items():
            result.add(hashlib.sha256(content).hexdigest(), len(content), name)
        return result, sum(map(len, self.held.values()))

    def total(self, engine: object) -> tuple[int, int]:
        return len(self.held), sum(map(len, self.held.values()))

    def drop(self, engine: object, prefix: str, top: str = "") -> None:
        self.dropped.append(prefix)
        self.held.clear()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    result = Store()
    for name in ("digests", "write", "sums", "total", "drop"):
        monkeypatch.setattr(artifacts, name, getattr(result, name))
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


# into an empty project: below a prefix of its own, which an interrupted import leaves

NEW = {"database": "new", "prefix": "live-new"}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(unpack, "beside", lambda project, new: None)
    monkeypatch.setattr(disk_space, "check", lambda *_: None)
    result = project(tmp_path / "lab")
    result.settings.folder.mkdir(parents=True)
    return result


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    return folder


def into_empty(empty: Project, root: Path, source: Source | None = None) -> list[str]:
    """As the import does it; gives what was told."""
    source, said, progress = source or Source(FOLDER, root), list[str](), Silent()
    engine = cast("Engine", None)
    new = {**NEW, "prefix": carrying.taken_up(empty, engine, source, progress) or "live-another"}
    survey: Any = Survey([Folder(root, "", "1/r/artifacts")], objects=len(list(root.iterdir())))
    carrying.into_empty(empty, engine, source, new, survey, progress, said.append)
    return [new["prefix"], *said]


def interrupt(empty: Project, store: Store, root: Path, error: BaseException) -> None:
    """An import that ends when it has stored the first artifact."""
    count = 0

    def write(engine: object, prefix: str, objects: Iterator[tuple[str, int, IO[bytes]]]) -> dict[str, str]:
        nonlocal count
        name, _, stream = next(objects)
        store.held[name] = stream.read()
        raise error

    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(artifacts, "write", write)
        into_empty(empty, root)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TrackbedError("the source does not answer")])
def test_an_import_goes_on_with_what_an_interrupted_one_stored(
    empty: Project, store: Store, files: Path, error: BaseException
) -> None:
    interrupt(empty, store, files, error)
    assert list(store.held) == ["1/r/artifacts/a"]
    prefix, told = into_empty(empty, files)
    assert prefix == "live-another" and store.written == ["1/r/artifacts/b", "1/r/artifacts/c"]
    assert "1 of 3 artifacts were there" in told and not store.dropped
    assert journal.held(empty.state)  # until it is active
    prefix, told = into_empty(empty, files)
    assert "3 of 3 artifacts were there" in told and len(store.written) == 2


def test_what_differs_from_the_source_is_copied_again(empty: Project, store: Store, files: Path) -> None:
    interrupt(empty, store, files, KeyboardInterrupt())
    store.held["1/r/artifacts/a"] = b"p"
    _, told = into_empty(empty, files)
    assert "0 of 3 artifacts were there" in told and len(store.written) == 3
    assert store.held["1/r/artifacts/a"] == b"a"


def test_what_the_source_has_no_more_does_not_stay(empty: Project, store: Store, files: Path) -> None:
    interrupt(empty, store, files, KeyboardInterrupt())
    (files / "a").unlink()
    prefix, told = into_empty(empty, files)
    assert "copied again" in told and store.dropped == [prefix]
    assert sorted(store.held) == ["1/r/artifacts/b", "1/r/artifacts/c"]


def test_what_an_import_of_another_source_left_goes(empty: Project, store: Store, files: Path, tmp_path: Path) -> None:
    interrupt(empty, store, files, KeyboardInterrupt())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "z").write_text("z")
    into_empty(empty, tmp_path / "other")
    assert store.dropped == ["live-another"] and list(store.held) == ["1/r/artifacts/z"]


def test_where_the_disk_is_full_nothing_stays(empty: Project, store: Store, files: Path) -> None:
    interrupt(empty, store, files, disk_space.Full("the disk is full"))
    assert journal.held(empty.state) is None
