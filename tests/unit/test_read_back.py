"""Reading a restored store back: its sum, and how far it is."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from helpers.backups import unpack
from helpers.data import artifacts
from helpers.data.checksum import SetSum
from helpers.engines import streaming
from helpers.errors import TrackbedError
from tests.unit.fakes import Silent

CONTENT = {"1/a": b"one", "1/ü": b"three"}


class Engine:
    """Gives the lines of `trackbed-mlflow sums`."""

    @contextmanager
    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> Iterator[Any]:
        assert argv == ("trackbed-mlflow", "sums", "new") and fresh
        lines = (f"{hashlib.sha256(c).hexdigest()} {len(c)} {json.dumps(n)}\n" for n, c in CONTENT.items())

        class Pipe:
            out = io.BytesIO("".join(lines).encode())

            def finish(self) -> None: ...

        yield Pipe()


class Told(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.amounts: list[tuple[str, int, int]] = []

    def amount(self, name: str, done: int, whole: int, note: str) -> None:
        self.amounts.append((name, done, whole))


def expected(content: dict[str, bytes]) -> tuple[str, int, int]:
    result = SetSum()
    for name, data in content.items():
        result.add(hashlib.sha256(data).hexdigest(), len(data), name)
    return result.text, result.count, sum(map(len, content.values()))


def read_back(wanted: dict[str, bytes], progress: Told) -> None:
    unpack.store_objects(Engine(), "new", iter(()), lambda: expected(wanted), "archive", progress, progress.step)  # type: ignore[arg-type]


def test_it_is_told_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "write", lambda *_: artifacts.Written({}))
    progress = Told()
    read_back(CONTENT, progress)
    assert progress.amounts == [("reading back", 3, 8), ("reading back", 8, 8)]


def test_another_content_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "write", lambda *_: artifacts.Written({}))
    with pytest.raises(TrackbedError, match="the store has 2 objects"):
        read_back({**CONTENT, "1/a": b"two"}, Told())


@pytest.mark.parametrize("code", [0, 137])
@pytest.mark.parametrize("said", ['{"1/a', '{}\n["1/a", 3', '["1/a", 3, "tag"]\n["1/b', "0123 4"])
def test_a_command_that_is_killed_within_a_line_is_told_as_such(said: str, code: int) -> None:
    class Killed:
        @contextmanager
        def pipe(self, *_: object, **__: object) -> Iterator[Any]:
            program = f"import sys; sys.stdout.write({said!r}); sys.exit({code})"
            with streaming.piped("storing", [sys.executable, "-c", program]) as pipe:
                yield pipe

        feed = pipe

    engine: Any = Killed()
    words = "ended early" if code == 0 else "storing failed: exit code 137"
    asked: list[Callable[[], object]] = (
        [lambda: artifacts.write(engine, "new", iter(()))]
        if said.startswith("{")
        else [lambda: list(artifacts.listing(engine)), lambda: list(artifacts.digests(engine, ()))]
        if said.startswith("[")
        else [lambda: artifacts.sums(engine, "new")]
    )
    for ask in asked:
        with pytest.raises(TrackbedError, match=words):
            ask()


@pytest.mark.parametrize(
    ("store", "is_up", "copies"),
    [
        ("versitygw", True, [False]),
        ("versitygw", False, [False, True]),
        ("minio", True, [True]),
        ("folder", True, [True]),
    ],
)
def test_a_copy_of_the_server_is_made_only_where_the_running_one_cannot_ask(
    store: str, is_up: bool, copies: list[bool]
) -> None:
    made: list[bool] = []

    class Server:
        object_store = store

        @contextmanager
        def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> Iterator[Any]:
            assert argv == ("trackbed-mlflow", "drop" if fresh else "discard", "old", "7")
            made.append(fresh)
            program = f"import sys; sys.exit({int(not fresh and not is_up)})"
            with streaming.piped("dropping", [sys.executable, "-c", program]) as pipe:
                yield pipe

    engine: Any = Server()
    artifacts.drop(engine, "old", "7")
    assert made == copies
