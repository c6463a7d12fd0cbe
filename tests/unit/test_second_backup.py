"""What a backup asks of the services: one command for the objects, started before it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.backups import create
from helpers.backups.repository import Snapshot
from helpers.backups.storage import Folder
from helpers.data import artifacts, database
from helpers.engines import streaming
from helpers.errors import TrackbedError
from helpers.services import MLFLOW
from tests.unit.fakes import ENTRY, Silent, project

EARLIER = ("list", "out", "pick")  # what the program of an earlier version knows


class Engine:
    """Artifacts in a folder; remembers in which order it is asked."""

    name, object_store = "lab", "folder"

    def __init__(self, folder: Path, known: tuple[str, ...] = ("offer", *EARLIER)) -> None:
        self.folder, self.known, self.order = folder, known, list[str]()
        self.settings = SimpleNamespace(s3_endpoint="", s3_bucket="")

    def services(self) -> tuple[()]:
        return ()

    def unlisted(self) -> tuple[str, ...]:
        return ()

    def versions(self) -> dict[str, str]:
        return {"mlflow": "3.17.2"}

    @contextmanager
    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> Iterator[streaming.Pipe]:
        assert service == MLFLOW and fresh and argv[0] == artifacts.PROGRAM
        self.order.append(argv[1])
        words = [sys.executable, str(ENTRY), *(argv[1:] if argv[1] in self.known else ["unknown"])]
        environment = {"PATH": os.environ["PATH"], "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder)}
        with streaming.piped(argv[0], words, environment) as pipe:
            yield pipe


class Dump:
    """What pg_dump writes; a file that appears while it is read is younger than the dump's moment."""

    def __init__(self, order: list[str]) -> None:
        self._order, self._rest = order, [b"a dump"]

    def read(self, count: int = -1) -> bytes:
        self._order.append("dump read")
        return self._rest.pop() if self._rest else b""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine(tmp_path / "artifacts")
    engine.folder.mkdir()
    begin = artifacts.Offer.begin

    @contextmanager
    def dump(_: object, name: str) -> Iterator[Any]:
        engine.order.append("moment")
        yield database.Dump(Dump(engine.order), lambda: database.Contents("1", {}))  # type: ignore[arg-type]

    def begun(offer: artifacts.Offer) -> None:
        engine.order.append("list begins")
        begin(offer)

    monkeypatch.setattr(database, "dump", dump)
    monkeypatch.setattr(artifacts.Offer, "begin", begun)
    return engine


def write(engine: Engine, name: str, content: bytes) -> None:
    """A file that has a mark."""
    (engine.folder / name).write_bytes(content)
    os.utime(engine.folder / name, (1, 1))


def back_up(engine: Engine, folder: Path) -> create.Added:
    created = project(folder)
    created.state.active = {"database": "mlflow", "prefix": "a"}
    engine.order.clear()
    added = create.add(created, engine, Folder(folder / "repository"), Silent())  # type: ignore[arg-type]
    assert Snapshot(Folder(folder / "repository"), added.name).verify()["objects_sum"] == added.manifest["objects_sum"]
    return added


def contents(folder: Path, added: create.Added) -> dict[str, bytes]:
    snapshot = Snapshot(Folder(folder / "repository"), added.name)
    members = snapshot.members(snapshot.manifest())
    return {name.removeprefix("objects/"): stream.read() for name, _, stream in members if name.startswith("objects/")}


def test_one_command_lists_the_objects_and_gives_them(lab: Engine, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(lab, name, name.encode())
    assert contents(tmp_path, back_up(lab, tmp_path)) == {"a": b"a", "b": b"b"}
    assert [word for word in lab.order if word in lab.known] == ["offer"]
    write(lab, "b", b"other")
    assert contents(tmp_path, back_up(lab, tmp_path)) == {"a": b"a", "b": b"other"}
    assert [word for word in lab.order if word in lab.known] == ["offer"]


def test_the_list_begins_with_the_moment_of_the_dump_and_not_before(lab: Engine, tmp_path: Path) -> None:
    back_up(lab, tmp_path)
    assert lab.order[:4] == ["offer", "moment", "list begins", "dump read"]


def test_what_was_stored_before_the_moment_is_in_the_backup(
    lab: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = artifacts.Offer.begin

    def acknowledged(offer: artifacts.Offer) -> None:
        write(lab, "late", b"late")  # the command waits since before
        begin(offer)

    monkeypatch.setattr(artifacts.Offer, "begin", acknowledged)
    assert contents(tmp_path, back_up(lab, tmp_path)) == {"late": b"late"}


def test_a_server_of_an_earlier_version_is_asked_in_its_words(lab: Engine, tmp_path: Path) -> None:
    lab.known = EARLIER
    write(lab, "a", b"a")
    assert contents(tmp_path, back_up(lab, tmp_path)) == {"a": b"a"}
    assert [word for word in lab.order if word in ("offer", *EARLIER)] == ["offer", "list", "pick"]


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ('["a", 1, ""]\n', 137, "offering failed: exit code 137"),
        ('["a", 1, ""]\n', 0, "listing the objects ended early"),
        ('["a", 1, ""]\n["b', 0, "listing the objects ended early"),
        ('["a", 1, ""]\n[null, 2, ""]\n', 0, "listing the objects ended early"),
        ('["a", 1, ""]\n[null, 1, ""]\n', 0, "reading the objects"),
        ('["a", 1, ""]\n[null, 1, ""]\n', 75, "offering failed: exit code 75"),
    ],
)
def test_a_command_that_ends_early_ends_the_backup(said: str, code: int, words: str) -> None:
    class Ends:
        @contextmanager
        def pipe(self, *_: object, **__: object) -> Iterator[Any]:
            program = f"import sys; sys.stdin.readline(); sys.stdout.write({said!r}); sys.exit({code})"
            with streaming.piped("offering", [sys.executable, "-c", program]) as pipe:
                yield pipe

        def unlisted(self) -> tuple[str, ...]:
            return ()

    engine: Any = Ends()
    with artifacts.offer(engine) as objects, pytest.raises(TrackbedError, match=words):
        objects.begin()
        names = [name for name, *_ in objects.list_all(Silent())]
        list(objects.read(iter(names)))
