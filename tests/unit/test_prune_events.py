"""Pruning beside slow requests, sleeping machines, wrong clocks and manifests that nobody understands."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from helpers.backups import bucket, manage, prune, repository, running
from helpers.backups.bucket import Access, Bucket
from helpers.backups.repository import Snapshot
from helpers.backups.repository_writer import Writer
from helpers.backups.retention import Policy
from helpers.backups.storage import BlobStore, Folder, Missing
from helpers.errors import TrackbedError
from tests.unit.fakes import Silent, project
from tests.unit.test_prune import DAY, age, run, small, whole, write, write_archive  # noqa: F401  # `small` is a fixture
from tests.unit.test_repository import FACTS

SHARED = b"gone" * 300


class Objects:
    """A client of a small S3 store with a clock of its own. ``before``: called before each request."""

    def __init__(self) -> None:
        self.content = dict[str, tuple[bytes, float]]()
        self.late = 0.0
        self.before: Callable[[str, str], None] = lambda request, key: None
        self._lock = threading.RLock()

    def _time(self) -> float:
        return time.time() + self.late

    def _found(self, key: str) -> tuple[bytes, float]:
        if key not in self.content:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return self.content[key]

    def list_objects_v2(self, Prefix: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        return {
            "Contents": [
                {"Key": key, "Size": len(content), "LastModified": datetime.fromtimestamp(modified, UTC)}
                for key, (content, modified) in sorted(self.content.items())
                if key.startswith(Prefix)
            ]
        }

    def get_object(self, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        content, _modified = self._found(Key)
        return {"Body": io.BytesIO(content), "ContentLength": len(content)}

    def head_object(self, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        return {"LastModified": datetime.fromtimestamp(int(self._found(Key)[1]), UTC)}

    def put_object(self, Key: str, Body: bytes, **_: Any) -> None:  # noqa: N803
        self.content[Key] = Body, self._time()

    def copy_object(self, Key: str, CopySource: dict[str, str], **_: Any) -> None:  # noqa: N803
        self.content[Key] = self._found(CopySource["Key"])[0], self._time()

    def delete_object(self, Key: str, **_: Any) -> None:  # noqa: N803
        self.before("delete", Key)
        self.content.pop(Key, None)


def at(objects: Objects) -> Bucket:
    result = Bucket("s3://bucket", Access("", "", "", ""))
    result._made = result._sends = objects
    return result


@pytest.fixture
def objects() -> Objects:
    """A store with an older backup of what the newest lacks; all of it is old."""
    result = Objects()
    result.late = -2 * DAY
    write(at(result), {"1/gone": SHARED})
    write(at(result), {"1/a": b"x"})
    result.late = 0.0
    return result


def once(request: str, within: str, act: Callable[[], None]) -> Callable[[str, str], None]:
    """Do this before the first such request."""
    lock, done = threading.Lock(), list[bool]()

    def before(kind: str, key: str) -> None:
        with lock:
            if kind != request or not key.startswith(within) or done:
                return
            done.append(True)
        act()

    return before


def piece_of(store: BlobStore) -> str:
    """Where the first piece of what the older backup has is."""
    (entry,) = [e for s in _snapshots(store) for e in s.entries(s.manifest()) if e.object == "1/gone"]
    return repository.piece(entry.pieces[0])


def _snapshots(store: BlobStore) -> list[Snapshot]:
    return [Snapshot(store, name) for name in repository.names(store)]


class Backup:
    """One that has found its pieces and not ended yet."""

    def __init__(self, store: BlobStore) -> None:
        self.store, self._stack = store, ExitStack()
        self._writer = self._stack.enter_context(Writer(store, "p", {"made": "x"}, "here"))
        self._writer.small("settings.json", b"{}")
        self._writer.database(io.BytesIO(b"PGDMPp"))
        list(self._writer.listed([("1/gone", len(SHARED), "")]))
        self._writer.object("1/gone", len(SHARED), io.BytesIO(SHARED))

    def end(self) -> Snapshot:
        with self._stack:
            name, _ = self._writer.finish(FACTS | {"dump_bytes": 6})
        return Snapshot(self.store, name)


def test_a_backup_that_begins_while_an_object_is_copied_but_not_deleted_yet(objects: Objects) -> None:
    """The store answers the deletion minutes later: the backup has found the piece, which is in the trash before it."""
    running_ones = list[Backup]()

    def begin() -> None:
        objects.late += 5 * 60
        running_ones.append(Backup(at(objects)))

    objects.before = once("delete", piece_of(at(objects)), begin)
    run(at(objects), at_once=True)
    (backup,) = running_ones
    backup.end().verify()


def test_at_once_is_at_once_where_a_listing_has_fractions_of_seconds(objects: Objects) -> None:
    result = run(at(objects), at_once=True)
    assert result.deleted.count == result.unused.count > 0 == result.waiting.count


def test_a_prune_does_not_empty_what_another_one_is_just_moving(objects: Objects) -> None:
    written = list[Snapshot]()

    def others() -> None:
        objects.late += 5
        written.append(write(at(objects), {"1/gone": SHARED}, marks=False))
        run(at(objects), keep=9, at_once=True)

    objects.before = once("delete", piece_of(at(objects)), others)
    run(at(objects), at_once=True)
    written[0].verify()
    run(at(objects), keep=9, at_once=True)
    written[0].verify()


def test_a_copy_that_took_long_does_not_delete_the_original(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept in between: what it knew then may not hold any more."""
    path, current = piece_of(at(objects)), [time.time()]

    class Time:
        @staticmethod
        def time() -> float:
            current[0] += 900
            return current[0]

    monkeypatch.setattr(bucket, "time", Time, raising=False)
    at(objects).move(path, f"trash/{path}.{'0' * 16}")
    assert path in objects.content
    monkeypatch.undo()
    at(objects).move(path, f"trash/{path}.{'1' * 16}")
    assert path not in objects.content


def test_a_file_is_as_young_as_its_move_not_as_the_beginning_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Folder(tmp_path)
    write(store, {"1/gone": SHARED})
    write(store, {"1/a": b"x"})
    age(tmp_path)
    name, running_ones, utime = piece_of(store).rpartition("/")[2], list[Backup](), os.utime

    def slow(path: Any, *args: Any, **named: Any) -> None:
        utime(path, *args, **named)
        if path == name and not running_ones:  # a file server that does not answer for five minutes
            utime(path, (time.time() - 300,) * 2, **named)
            running_ones.append(Backup(store))

    monkeypatch.setattr(os, "utime", slow)
    run(store, at_once=True)
    running_ones[0].end().verify()


# clocks


def test_a_backup_that_began_before_the_clock_was_set_back(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    write(store, {"1/gone": SHARED})
    write(store, {"1/a": b"x"})
    age(tmp_path)
    with running.Flag(store):
        (flag,) = (tmp_path / "running").iterdir()
        flag.write_text(json.dumps({"began": time.time() + 365 * DAY}))
        result = run(store, at_once=True)
    assert result.busy == 1 and result.unused.count == result.deleted.count == 0


def test_a_flag_says_so_when_the_clock_was_set_back(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    with running.Flag(store) as flag:
        flag.began += 3 * 3600
        flag._refresh()
        (path,) = (tmp_path / "running").iterdir()
        assert json.loads(path.read_text())["began"] <= time.time() + 1


@pytest.mark.parametrize("began", ["1e999", "NaN", "-5", "9" * 400, "[]", '"x"'])
def test_a_flag_with_nonsense_waits_for_a_backup_of_any_time(tmp_path: Path, began: str) -> None:
    store = Folder(tmp_path)
    store.write(f"running/{'ab' * 16}", f'{{"began": {began}}}'.encode())
    assert list(running.backups(store, time.time())) == [0.0]


def rename(store: Folder, snapshot: Snapshot, stamp: str) -> str:
    """As if the machine's clock had been this when the backup was made."""
    name = f"trackbed-p-{stamp}"
    for top in ("backups", "copies"):
        (store.path / top / f"{snapshot.name}.json").rename(store.path / top / f"{name}.json")
    return name


@pytest.mark.parametrize("stamp", ["20990101T000000Z", "20261399T256199Z"])
def test_a_backup_of_a_wrong_clock_neither_counts_nor_goes(tmp_path: Path, stamp: str) -> None:
    """It would be the newest for years: each new backup would go at once."""
    store = Folder(tmp_path)
    wrong = rename(store, write(store, {"1/a": b"wrong"}), stamp)
    old, new = write(store, {"1/a": b"old"}), write(store, {"1/a": b"new"})
    age(tmp_path)
    result = prune.prune(store, "p", Policy(last=1, daily=1, monthly=1), Silent(), at_once=True)
    assert result.forgotten == [old.name] and result.reasons[wrong] == ["its time cannot be right"]
    assert whole(tmp_path) == sorted([new.name, wrong])


# what cannot be judged


def test_a_manifest_of_no_known_name_stops_it(tmp_path: Path) -> None:
    """Put aside by somebody, or a newer version's: nobody knows what it needs."""
    store = Folder(tmp_path)
    old = write(store, {"1/gone": SHARED})
    write(store, {"1/a": b"x"})
    age(tmp_path)
    strange = tmp_path / "backups" / "before the holidays.json"
    (tmp_path / "backups" / f"{old.name}.json").rename(strange)
    for dry_run in (True, False):
        with pytest.raises(TrackbedError, match="before the holidays.json") as error:
            prune.prune(store, "p", Policy(last=1), Silent(), dry_run=dry_run, at_once=True)
        assert error.value.hint
    strange.rename(tmp_path / "backups" / f"{old.name}.json")
    (tmp_path / "backups" / f"._{old.name}.json").write_text("what a Mac leaves on a file server")
    run(store, keep=2, at_once=True)
    assert len(whole(tmp_path)) == 2


def test_backups_stay_where_the_ones_that_are_to_stay_lack_a_piece(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    old, new = write(store, {"1/a": b"old"}), write(store, {"1/a": b"new"})
    age(tmp_path)
    (entry,) = [e for e in new.entries(new.manifest()) if e.object]
    path = tmp_path / repository.piece(entry.pieces[0])
    content = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(content[:-1])):
        damage()
        for dry_run in (True, False):
            with pytest.raises(TrackbedError, match="nothing was forgotten") as error:
                prune.prune(store, "p", Policy(last=1), Silent(), dry_run=dry_run, at_once=True)
            assert "backup.verify" in str(error.value.hint)
        assert repository.names(store) == [old.name, new.name]
    assert run(store, keep=2, at_once=True).forgotten == []  # frees what no backup needs
    path.unlink()
    (tmp_path / "trash" / path.parent.relative_to(tmp_path)).mkdir(parents=True, exist_ok=True)
    (tmp_path / "trash" / path.relative_to(tmp_path)).with_suffix(".0123456789abcdef").write_bytes(content)
    assert run(store, at_once=True).forgotten == [old.name]
    assert whole(tmp_path) == [new.name] and path.exists()


def test_a_backup_that_another_prune_forgets_meanwhile_stops_none(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    for number in range(3):
        write(store, {"1/a": b"%d" % number})

    class Late(Folder):
        def read(self, path: str, most: int) -> bytes:
            if path.startswith("backups/"):
                store.remove(path)
            return super().read(path, most)

    result = prune.prune(Late(tmp_path), "other", Policy(last=1), Silent())
    assert result.others == 3 and result.forgotten == []


def test_a_piece_is_found_while_a_prune_puts_it_back(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    snapshot = write(store, {"1/gone": SHARED})
    path = piece_of(store)
    trashed = f"{repository.trashed(path)}{'0' * 16}"
    store.move(path, trashed)

    class Back(Folder):
        def read(self, path: str, most: int) -> bytes:
            try:
                return super().read(path, most)
            except Missing:
                store.move(trashed, path)
                raise

    Snapshot(Back(tmp_path), snapshot.name).verify()


def test_a_full_disk_for_temporary_files_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Folder(tmp_path / "repo"), {})

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("helpers.backups.needed.Needed._add", full)
    with pytest.raises(TrackbedError, match="disk is full") as error:
        manage.pruned(project(tmp_path), str(tmp_path / "repo"), Policy(last=1), False, False, Silent())
    assert "TMPDIR" in str(error.value.hint)


# archives


def archives(folder: Path, *stamps: str) -> list[Path]:
    folder.mkdir(parents=True)
    result = [folder / f"trackbed-p-{stamp}.tar" for stamp in stamps]
    for path in result:
        write_archive(path)
    return result


def test_an_archive_that_cannot_be_read_does_not_count(tmp_path: Path) -> None:
    """A copy over the network that broke off: it must not push out the last whole one."""
    given = project(tmp_path, project="p")
    old, new, cut = archives(
        given.settings.folder / "backups", "20260101T000000Z", "20260102T000000Z", "20260103T000000Z"
    )
    os.truncate(cut, cut.stat().st_size - 1)
    result = manage.pruned(given, "", Policy(last=1), False, False, Silent())
    assert not old.exists() and new.exists() and cut.exists()
    assert result.rows[-1][2].startswith("is not an archive")


def test_an_archive_of_a_wrong_clock_neither_counts_nor_goes(tmp_path: Path) -> None:
    given = project(tmp_path, project="p")
    old, new, wrong = archives(
        given.settings.folder / "backups", "20260101T000000Z", "20260102T000000Z", "20990101T000000Z"
    )
    manage.pruned(given, "", Policy(last=1), False, False, Silent())
    assert not old.exists() and new.exists() and wrong.exists()


def test_an_archive_that_is_none_is_no_traceback(tmp_path: Path) -> None:
    given = project(tmp_path, project="p")
    _, new, gone = archives(
        given.settings.folder / "backups", "20260102T000000Z", "20260103T000000Z", "20260101T000000Z"
    )
    gone.unlink()
    gone.symlink_to("nowhere")
    folder = gone.with_name("trackbed-p-20251231T000000Z.tar")
    folder.mkdir()
    result = manage.pruned(given, "", Policy(last=1), False, False, Silent())
    assert new.exists() and folder.is_dir() and [name for name, stays, _ in result.rows if stays] == [new.stem]
