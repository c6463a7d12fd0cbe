"""What is whole of a damaged backup is restored, what is not is named, and nothing damaged passes for whole."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers.backups import archive, salvage, unpack
from helpers.backups.repository import Snapshot
from helpers.data.checksum import SetSum
from helpers.errors import TrackbedError
from tests.unit.test_repository import DUMP, FACTS, HARM, Reads, back_up, contents, piece, small_pieces

__all__ = ["small_pieces"]  # for every test here too

INNER = io.BytesIO()
with tarfile.open(fileobj=INNER, mode="w") as _tar:  # an artifact that is a tar, with a name as ours
    _member = tarfile.TarInfo("objects/1/r/a")
    _member.size = 3
    _tar.addfile(_member, io.BytesIO(b"not"))
OBJECTS = {
    "1/r/a": b"hello",
    "1/r/inner.tar": INNER.getvalue(),
    "1/" + "x" * 300: b"\0" * 5000,
    "1/ä\nb\\c": b"odd",
    "1/r/\udcff": bytes(range(250)) * 10,
    "1/r/empty": b"",
    "2/z": b"z" * 3000,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with (tmp_path / "a.tar").open("wb") as stream:
        writer = archive.Writer(stream, {"made": "2026-01-01T00:00:00+00:00"})
        writer.small("settings.json", b'{"TORCH": "none"}')
        writer.database(io.BytesIO(DUMP))
        for name, content in OBJECTS.items():
            writer.object(name, len(content), io.BytesIO(content))
        writer.finish(FACTS)
    return tmp_path / "a.tar"


def found(rest: salvage.Restorable) -> dict[str, bytes]:
    return {
        name.removeprefix("objects/"): content.read()
        for name, _, content in rest.members()
        if name.startswith("objects/")
    }


def is_the_rest(rest: salvage.Restorable, objects: dict[str, bytes]) -> None:
    """Everything but what is named, unchanged; and the sum with which a restore compares is that of it."""
    left = {name.removeprefix("objects/") for name in rest.left}
    whole = found(rest)
    assert whole == {name: content for name, content in objects.items() if name not in left}
    sums = SetSum()
    for name, content in whole.items():
        sums.add(hashlib.sha256(content).hexdigest(), len(content), name)
    assert (rest.objects_sum, rest.objects, rest.object_bytes) == (sums.text, len(whole), sum(map(len, whole.values())))
    assert b"".join(c.read() for n, _, c in rest.members() if n.startswith("database/")) == DUMP


def test_a_whole_archive_lacks_nothing(path: Path) -> None:
    for rest in (salvage.undamaged(path, None), salvage.of_archive(path, None)):
        assert not rest.left and found(rest) == OBJECTS
        assert salvage.small(rest, "settings.json") == b'{"TORCH": "none"}' and salvage.small(rest, "users.json") == b""


@pytest.mark.parametrize("part", range(120))
def test_flipped_bytes_of_an_archive(path: Path, part: int) -> None:
    """Headers, names, contents, padding, list of checksums, end: the rest is right, or it is refused in words."""
    content, chosen = bytearray(path.read_bytes()), random.Random(part)
    step = len(content) // 120
    content[part * step + chosen.randrange(step)] ^= 1 << chosen.randrange(8)
    path.write_bytes(content)
    with pytest.raises(TrackbedError):
        salvage.complete(path, None)
    try:
        rest = salvage.undamaged(path, None)
    except TrackbedError as error:
        assert any(word in error.message for word in ("manifest", "database dump", "list of checksums", "archive"))
        return
    assert len(rest.left) <= 2
    is_the_rest(rest, OBJECTS)


@pytest.mark.parametrize("name", ["1/r/a", "1/r/inner.tar", "1/" + "x" * 300, "1/ä\nb\\c", "1/r/\udcff", "2/z"])
@pytest.mark.parametrize("what", ["content", "header"])
def test_each_object_of_an_archive_may_be_lost(path: Path, name: str, what: str) -> None:
    with tarfile.open(path, errors="surrogateescape", encoding="utf-8") as tar:
        member = tar.getmember(f"objects/{name}")
        at = member.offset_data + (0 if what == "content" else -400)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    rest = salvage.undamaged(path, None)
    assert rest.left == (f"objects/{name}",)
    is_the_rest(rest, OBJECTS)
    with pytest.raises(TrackbedError) as refused:
        salvage.complete(path, None)
    assert f"`invoke restore {path} --skip-damaged`" in refused.value.hint


@pytest.mark.parametrize("count", [1, 600, archive.TRAILER + 10])
def test_an_archive_without_its_end_is_refused(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])
    with pytest.raises(TrackbedError, match="end is missing|manifest"):
        salvage.undamaged(path, None)


def test_settings_may_be_lost(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"none"', b'"nnne"'))
    rest = salvage.undamaged(path, None)
    assert rest.left == ("settings.json",) and salvage.small(rest, "settings.json") == b""
    is_the_rest(rest, OBJECTS)


# repositories

STORED = {name: content for name, content in OBJECTS.items() if content}


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return back_up(tmp_path / "repo", Reads(STORED))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_a_harmed_object_of_a_repository(snapshot: Snapshot, harm: Callable[[Path], None]) -> None:
    harm(piece(snapshot, b"hello"))
    rest = salvage.undamaged(snapshot, None)
    assert rest.left == ("objects/1/r/a",)
    is_the_rest(rest, STORED)
    with pytest.raises(TrackbedError) as refused:
        salvage.complete(snapshot, None)
    assert f"`invoke restore {snapshot} --skip-damaged`" in refused.value.hint


def test_a_harmed_dump_of_a_repository_is_refused_and_the_others_pointed_to(snapshot: Snapshot) -> None:
    piece(snapshot, DUMP[:1000]).unlink()
    with pytest.raises(TrackbedError, match="database dump is damaged") as refused:
        salvage.undamaged(snapshot, None)
    assert f"`invoke backup.verify {snapshot.store}`" in refused.value.hint


def test_a_whole_repository_lacks_nothing(snapshot: Snapshot) -> None:
    rest = salvage.undamaged(snapshot, None)
    assert not rest.left and len(contents(snapshot)) > 5
    is_the_rest(rest, STORED)


def test_settings_of_a_backup_are_those_that_this_version_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a flag or without one; not what belongs to the other machine, ends kernels or lets a start fail."""
    held = {"TORCH": "none", "MLFLOW_WORKERS": "4", "CULL_IDLE": "1m", "READY_TIMEOUT": "1", "WORKSPACE": "/home/ada"}
    with (tmp_path / "a.tar").open("wb") as stream:
        writer = archive.Writer(stream, {"made": "2026-01-01T00:00:00+00:00"})
        writer.small("settings.json", json.dumps(held).encode())
        writer.database(io.BytesIO(DUMP))
        writer.finish(FACTS)
    found = unpack.settings_of(salvage.complete(tmp_path / "a.tar", lambda *_: None))
    assert found == {"TORCH": "none", "MLFLOW_WORKERS": "4"}
    wrong = SimpleNamespace(small={"settings.json": b'{"TORCH": "no such", "MLFLOW_WORKERS": "4"}'})
    monkeypatch.setattr(salvage, "small", lambda rest, name: rest.small[name])
    assert unpack.settings_of(cast(Any, wrong)) == {"MLFLOW_WORKERS": "4"}
