"""A restore leaves room on the disk: what a backup says of itself is looked at first, and the disk while it unpacks."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from trackbed_mlflow import s3_objects

from helpers import lifecycle, status
from helpers.backups import archive, disk_space, restore, unpack
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.engines.host import HostFacts
from helpers.errors import TrackbedError
from tests.unit import fakes

GIB = 2**30


@dataclass
class Disk:
    """An engine on a disk of which so many bytes are free, one value for each time that it is asked."""

    free: list[int]
    object_store: str = "folder"
    remote: bool = False
    asked: int = 0
    settings: Any = field(init=False)

    def __post_init__(self) -> None:
        self.settings = SimpleNamespace(object_store=self.object_store)

    def host_facts(self) -> HostFacts:
        self.asked += 1
        free = self.free[min(self.asked, len(self.free)) - 1]
        return HostFacts("machine", "x86_64", 1, GIB, GIB, free, "/data", self.remote)


def engine(*free: int, **options: Any) -> Engine:
    return cast("Engine", Disk(list(free), **options))


@pytest.mark.parametrize(
    ("objects", "size", "dump"), [(1, 2 * GIB, 0), (1, 0, 2 * GIB), (10**9, 0, 0), (1, GIB - disk_space.FREE, 0)]
)
def test_what_does_not_fit_is_refused_with_a_next_step(objects: int, size: int, dump: int) -> None:
    with pytest.raises(TrackbedError, match=r"GiB are free at /data.*nothing was restored") as caught:
        disk_space.check(engine(GIB), objects, size, dump)
    assert "`invoke usage`" in (caught.value.hint or "")


def test_what_fits_passes() -> None:
    disk_space.check(engine(GIB), 10, GIB // 4, GIB // 8)
    disk_space.check(engine(GIB, object_store="external"), 10**6, 2**50, 0)  # the objects go to somebody else's disk
    disk_space.check(engine(0, remote=True), 10, GIB, 0)  # a node that does not tell


def watch(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> disk_space.Watch:
    monkeypatch.setattr(disk_space, "free_space", lambda _: disk.host_facts().disk_free)
    result = disk_space.Watch(cast("Engine", disk))
    disk.asked = 0
    return result


@pytest.mark.parametrize(("remote", "every"), [(False, 8 * 2**20), (True, 64 * 2**20)])
def test_the_disk_is_asked_again_while_a_backup_is_unpacked(
    monkeypatch: pytest.MonkeyPatch, remote: bool, every: int
) -> None:
    disk = Disk([10 * GIB, 10 * GIB, GIB, disk_space.FREE - 1], remote=remote)
    result = watch(disk, monkeypatch)
    for _ in range(2 * every // 2**20):
        result.took(2**20)
    assert disk.asked == 2
    result.took(every)
    with pytest.raises(TrackbedError, match="does not fit"):
        result.took(every)


BY_PARTS = 6 * GIB  # more than one request may have


@pytest.mark.parametrize(
    ("store", "size", "needed"),
    [
        ("versitygw", GIB, GIB),
        ("versitygw", disk_space.ONE_REQUEST, disk_space.ONE_REQUEST),
        ("versitygw", BY_PARTS, 2 * BY_PARTS),
        ("minio", BY_PARTS, BY_PARTS),
        ("folder", BY_PARTS, BY_PARTS),
        ("external", BY_PARTS, 0),
    ],
)
def test_a_large_object_is_begun_where_it_fits_until_it_is_stored(
    monkeypatch: pytest.MonkeyPatch, store: str, size: int, needed: int
) -> None:
    watch(Disk([disk_space.FREE + needed], store), monkeypatch).object(size)
    with pytest.raises(TrackbedError, match="does not fit"):
        watch(Disk([disk_space.FREE + needed - 1], store), monkeypatch).object(size)
    room = disk_space.FREE + needed + (disk_space.OBJECT if needed else 0)
    disk_space.check(engine(room, object_store=store), 1, size, 0, size)
    if needed:
        with pytest.raises(TrackbedError, match=f"needs {needed / GIB:.1f} GiB"):
            disk_space.check(engine(room - 1, object_store=store), 1, size, 0, size)


def test_the_store_gets_by_one_request_what_the_disk_is_asked_for_once() -> None:
    assert disk_space.ONE_REQUEST == s3_objects.ONE_REQUEST


@pytest.mark.parametrize(("said", "found"), [(7, 7), (10**9, 100), (-1, 0), ("7", 0), (None, 0)])
def test_the_largest_object_is_what_a_manifest_may_say(said: object, found: int) -> None:
    assert disk_space.largest({"object_bytes": 100, "largest_object": said}) == found


def test_the_disk_is_looked_at_within_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk([10 * GIB, 10 * GIB, disk_space.FREE - 1])
    content = io.BytesIO(bytes(4 * disk_space.EVERY))
    member = ("objects/1/a", 4 * disk_space.EVERY, content)
    name, _, stream = next(unpack._objects(iter((member,)), cast("Any", None), 0, watch(disk, monkeypatch)))
    assert name == "1/a" and disk.asked == 1  # before it is begun
    with pytest.raises(TrackbedError, match="does not fit"):
        while stream.read(2**20):
            pass
    assert content.tell() == 2 * disk_space.EVERY


@pytest.mark.parametrize("facts", [{"object_bytes": 2**60}, {"objects": 2**50}, {"dump_bytes": 2**60}])
def test_nothing_is_read_or_begun_of_an_archive_that_cannot_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, int]
) -> None:
    def begun(*_: object, **__: object) -> None:
        raise AssertionError("something was begun")

    with (tmp_path / "a.tar").open("wb") as stream:
        writer = archive.Writer(stream, {"made": "2026-01-01T00:00:00+00:00"})
        writer.object("1/a", 5, io.BytesIO(b"hello"))
        manifest = writer.finish({"schema": "abc", "mlflow": "3", "tables": {}})
    assert disk_space.largest(manifest) == 5
    content = (tmp_path / "a.tar").read_bytes()[: -archive.TRAILER]
    (tmp_path / "a.tar").write_bytes(content + archive.trailer({**manifest, **facts}))
    monkeypatch.setattr(select, "current", lambda _: engine(GIB))
    monkeypatch.setattr(unpack, "verify", begun)
    monkeypatch.setattr(status, "running", begun)
    for name in ("up", "changing"):
        monkeypatch.setattr(lifecycle, name, begun)
    with pytest.raises(TrackbedError, match="nothing was restored"):
        restore.restore(fakes.project(tmp_path), tmp_path / "a.tar", fakes.Silent(), begun)
