"""Pruning: what a policy keeps, and that no backup that stays ever lacks a piece, whoever else is at work or dies."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.backups import archive, manage, needed, prune, repository, repository_writer, retention, running
from helpers.backups.prune import PruneResult
from helpers.backups.repository import Snapshot
from helpers.backups.repository_writer import Writer
from helpers.backups.retention import Policy
from helpers.backups.storage import Blob, BlobStore, Folder
from helpers.cli import data, options
from helpers.errors import SettingError, TrackbedError
from tests.conftest import until
from tests.unit.fakes import Silent, project
from tests.unit.test_repository import FACTS

DAY = 24 * 3600.0
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Clock(datetime):
    """The writer's clock: each look is six hours later."""

    current = BEGIN

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        cls.current += timedelta(hours=6)
        return cls.current


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "PIECE", 1000)
    monkeypatch.setattr(repository_writer, "datetime", Clock)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # thousands of small files
    Clock.current = BEGIN


def write(store: BlobStore, objects: dict[str, bytes], name: str = "p", marks: bool = True, **about: str) -> Snapshot:
    """A backup of these objects; without marks each is read again, and found by its checksum."""
    with Writer(store, name, {"made": "x", **about}, "here") as writer:
        writer.small("settings.json", b"{}")
        writer.database(io.BytesIO(b"PGDMP" + name.encode()))
        for key in writer.listed((key, len(c), f"{hash(c)}" if marks else "") for key, c in objects.items()):
            writer.object(key, len(objects[key]), io.BytesIO(objects[key]))
        done, _ = writer.finish(FACTS | {"dump_bytes": 5 + len(name)})
    return Snapshot(store, done)


def age(folder: Path, days: float = 2) -> None:
    """Everything there was written so long ago, and what runs began so much earlier."""
    for path in folder.rglob("*"):
        if path.parent.name == "running" and len(path.name) == 32:
            began = json.loads(path.read_text())["began"]
            path.write_text(json.dumps({"began": began and began - days * DAY}))
        elif path.is_file():
            os.utime(path, (path.stat().st_mtime - days * DAY,) * 2)


def run(store: BlobStore, keep: int = 1, name: str = "p", at_once: bool = False) -> PruneResult:
    return prune.prune(store, name, Policy(last=keep), Silent(), at_once=at_once)


def whole(folder: Path) -> list[str]:
    """The backups that are there, each read back."""
    names = repository.names(Folder(folder))
    for name in names:
        Snapshot(Folder(folder), name).verify()
    return names


def present(folder: Path) -> None:
    """What the backups need is at its place, not in the trash."""
    with needed.Needed() as blobs:
        for name in repository.names(Folder(folder)):
            blobs.add(Snapshot(Folder(folder), name))
        assert [path for path, size in blobs if not Folder(folder).holds(path, size)] == []


# the policy, as `restic forget` has it


def names(*times: str) -> list[str]:
    return [f"trackbed-p-{time}00Z" for time in times]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(last=2), ["20260110T1200", "20260110T0600"]),
        (Policy(daily=2), ["20260110T1200", "20260109T0600"]),
        (Policy(weekly=2), ["20260110T1200", "20260103T0000"]),
        (Policy(monthly=2), ["20260110T1200", "20251231T2359"]),
        (Policy(monthly=9), ["20260110T1200", "20251231T2359", "20251201T0000"]),  # the oldest of a short history
        (Policy(last=1, daily=1), ["20260110T1200"]),
        (Policy(last=99), None),
    ],
)
def test_what_a_policy_keeps(policy: Policy, kept: list[str] | None) -> None:
    times = ["20251201T0000", "20251231T2359", "20260103T0000", "20260109T0600", "20260110T0600", "20260110T1200"]
    result = retention.reasons(names(*times), policy)
    assert {name for name, why in result.items() if why} == set(names(*(times if kept is None else kept)))


def test_reasons_are_told() -> None:
    result = retention.reasons(names("20260109T0600", "20260110T1200"), Policy(last=1, daily=9, monthly=9))
    assert list(result.values()) == [["last", "daily", "monthly"], ["daily", "oldest, monthly"]]


@pytest.mark.parametrize("policy", [{}, {"last": 0}])
def test_a_policy_that_keeps_nothing_is_refused(tmp_path: Path, policy: dict[str, int]) -> None:
    write(Folder(tmp_path / "repo"), {})
    with pytest.raises(SettingError, match="keep-last"):
        manage.pruned(project(tmp_path), str(tmp_path / "repo"), Policy(**policy), False, True, Silent())
    assert whole(tmp_path / "repo")


# what goes, and when


def test_two_hundred_backups_of_a_growing_system(tmp_path: Path) -> None:
    rng, objects = random.Random(1), dict[str, bytes]()
    store = Folder(tmp_path)
    for number in range(200):
        objects |= {f"1/{number}": rng.randbytes(500), "1/changing": rng.randbytes(1500)}
        if number > 20:
            del objects[f"1/{number - 20}"]
        write(store, objects)
    age(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    policy = Policy(last=7, daily=14, weekly=8)
    result = prune.prune(store, "p", policy, Silent())
    left = whole(tmp_path)
    expected = retention.reasons(list(result.reasons), policy)
    assert len(result.reasons) == 200 and left == sorted(name for name, why in expected.items() if why)
    assert 14 + 6 <= len(left) <= 7 + 14 + 8
    assert result.deleted.count == 0 and result.waiting.count > 200
    age(tmp_path)
    assert prune.prune(store, "p", policy, Silent()).deleted.count == result.waiting.count
    assert whole(tmp_path) == left
    present(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < size / 2
    assert not list(prune._unneeded(store, _needs(store), float("inf")))


def _needs(store: BlobStore) -> needed.Needed:
    result = needed.Needed()
    for name in repository.names(store):
        result.add(Snapshot(store, name))
    return result


def test_what_is_young_or_in_the_trash_since_today_stays(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    write(store, {"1/a": b"first"})
    write(store, {"1/b": b"second"})
    result = run(store)
    assert len(result.forgotten) == 1 and (result.unused.count, result.waiting.count, result.deleted.count) == (0, 0, 0)
    age(tmp_path)
    result = run(store)
    assert result.forgotten == [] and result.unused.count == result.waiting.count > 0 and not result.deleted.count
    assert run(store, at_once=True).deleted.count == result.waiting.count
    assert not [path for path in (tmp_path / "trash").rglob("*") if path.is_file()] and whole(tmp_path)


def test_other_projects_and_other_machines_keep_theirs(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    other = write(store, {"1/a": b"shared"}, "other")
    here = [write(store, {"1/a": b"shared", "1/b": b"x"}, project_id="here") for _ in range(2)]
    there = write(store, {"1/c": b"there"}, project_id="there")
    age(tmp_path)
    result = run(store, at_once=True)
    assert result.others == 1 and result.forgotten == [here[0].name]
    assert whole(tmp_path) == sorted(one.name for one in (other, here[1], there))


def test_backups_of_an_earlier_version_count_with_the_project_of_the_same_store(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    old = write(store, {"1/a": b"old"})
    new = write(store, {"1/a": b"new"}, project_id="here")
    assert run(store).forgotten == [old.name]
    assert whole(tmp_path) == [new.name]


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    for number in range(3):
        write(store, {"1/a": b"%d" % number})
    before = sorted(tmp_path.rglob("*"))
    result = prune.prune(store, "p", Policy(last=1), Silent(), dry_run=True)
    assert len(result.forgotten) == 2 and result.unused.count == 2 * (1 + 1 + 1 + 1)  # object, list, and their copies
    assert sorted(tmp_path.rglob("*")) == before


def test_a_backup_that_cannot_be_read_stops_it_before_anything_is_forgotten(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    for number in range(3):
        write(store, {"1/a": b"%d" % number})
    last = max(repository.names(store))
    for top in ("backups", "copies"):
        (tmp_path / top / f"{last}.json").write_bytes(b"{}")
    age(tmp_path)
    with pytest.raises(TrackbedError, match="nothing is deleted") as error:
        run(store, at_once=True)
    assert f"backups/{last}.json" in str(error.value.hint) and len(repository.names(store)) == 3
    (tmp_path / "backups" / f"{last}.json").unlink()
    run(store, at_once=True)
    assert len(whole(tmp_path)) == 1


def test_what_trackbed_did_not_write_stays(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    write(store, {"1/a": b"x"})
    for path in ("pieces/readme", "trash/mine", "trash/pieces/ab/x.0123456789abcdef", "copies/notes.txt", "running/x"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ("ab" * 32)).write_text("theirs")
    (tmp_path / "pieces" / "ab").symlink_to(tmp_path / "elsewhere")
    age(tmp_path)
    for _ in range(2):
        run(store, at_once=True)
    assert (tmp_path / "elsewhere" / ("ab" * 32)).exists()
    assert all((tmp_path / path).exists() for path in ("pieces/readme", "trash/mine", "copies/notes.txt", "running/x"))


# others at work, and death at any moment


class Killed(BaseException):
    """As kill -9: nothing that cleans up gets through to the store."""


class Watched:
    """A store that does something before each of its operations that change it."""

    def __init__(self, store: Folder, before: Callable[[int], None]) -> None:
        self._store, self._before, self.count = store, before, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in ("write", "move", "remove", "sync", "begin"):
            return method

        def watched(*args: Any) -> Any:
            self.count += 1
            self._before(self.count)
            return method(*args)

        return watched

    def __str__(self) -> str:
        return str(self._store)


def killed_at(store: Folder, number: int) -> Any:
    def before(count: int) -> None:
        if count >= number:
            raise Killed

    return Watched(store, before)


@pytest.fixture
def begun(tmp_path: Path) -> Callable[[int], Path]:
    """A repository whose older backups have what the newest lacks; all of it is old."""

    first = tmp_path / "first"
    for count in range(2):
        write(Folder(first), {"1/same": b"same" * 300, "1/a": b"%d" % count * 1200, "1/gone": b"gone" * 300})
    write(Folder(first), {"1/same": b"same" * 300})
    age(first)

    def make(number: int) -> Path:
        return shutil.copytree(first, tmp_path / f"{number}")

    return make


def test_killed_at_any_moment(begun: Callable[[int], Path]) -> None:
    number, survived = 0, False
    while not survived:
        number += 1
        target = begun(number)
        try:
            run(killed_at(Folder(target), number), at_once=True)
            survived = True
        except Killed:
            pass
        left = whole(target)
        assert left and max(left) == left[-1]
        write(Folder(target), {"1/gone": b"gone" * 300})
        whole(target)
        age(target)
        run(Folder(target), keep=9, at_once=True)
        whole(target)
        present(target)
    assert number > 10


def prune_twice(target: Path) -> None:
    """Two days and two prunes later every backup is whole."""
    for _ in range(2):
        age(target)
        run(Folder(target), keep=9)
    whole(target)
    present(target)


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_backup_at_any_moment_of_a_prune(begun: Callable[[int], Path], marks: bool, at_once: bool) -> None:
    """It finds pieces that the prune is about to take: it lacks none when both are done, and after the next prune."""
    number, done = 0, False
    while not done:
        number += 1
        target = begun(number)
        written: list[Snapshot] = []

        def backup(count: int, number: int = number, target: Path = target, written: list[Snapshot] = written) -> None:
            if count == number:
                written.append(write(Folder(target), {"1/gone": b"gone" * 300, "1/a": b"1" * 1200}, marks=marks))

        run(Watched(Folder(target), backup), at_once=at_once)
        done = not written
        assert all(one.name in whole(target) for one in written)
        prune_twice(target)
    assert number > 10


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_prune_at_any_moment_of_a_backup(begun: Callable[[int], Path], marks: bool, at_once: bool) -> None:
    number, done = 0, False
    while not done:
        number += 1
        target = begun(number)
        pruned: list[PruneResult] = []

        def begin(count: int, number: int = number, target: Path = target, pruned: list[PruneResult] = pruned) -> None:
            if count == number:
                pruned.append(run(Folder(target), at_once=at_once))
                age(target)  # a whole day and another prune, in the middle of that backup
                pruned.append(run(Folder(target), keep=9, at_once=at_once))

        snapshot = write(Watched(Folder(target), begin), {"1/gone": b"gone" * 300, "1/a": b"1" * 1200}, marks=marks)
        done = not pruned
        assert snapshot.name in whole(target)
        prune_twice(target)
    assert number > 10


def test_two_prunes_at_once(begun: Callable[[int], Path]) -> None:
    number, done = 0, False
    while not done:
        number += 1
        target = begun(number)
        others: list[PruneResult] = []

        def begin(count: int, number: int = number, target: Path = target, others: list[PruneResult] = others) -> None:
            if count == number:
                others.append(run(Folder(target), at_once=True))

        run(Watched(Folder(target), begin), at_once=True)
        done = not others
        assert len(whole(target)) == 1
    assert number > 10


# the flag


def test_a_running_backup_has_its_flag_up(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    write(store, {"1/a": b"x"})
    write(store, {"1/b": b"x"})
    age(tmp_path)
    with Writer(store, "q", {}, "here"):
        now = running.time_of(store)
        (began,) = running.backups(store, now)
        assert 0 < now - began < 60
        assert run(store, at_once=True).busy == 1
        (flag,) = (tmp_path / "running").iterdir()
        os.utime(flag, (time.time() - running.STALE - 2 * running.SLACK,) * 2)
        assert list(running.backups(store, now)) == [] and not flag.exists()
    assert not list((tmp_path / "running").iterdir())


def test_a_flag_that_tells_nothing_stops_every_deletion(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    write(store, {"1/a": b"x"})
    write(store, {"1/b": b"x"})
    age(tmp_path)
    store.write(f"running/{'ab' * 16}", b"?")
    result = run(store, at_once=True)
    assert result.busy == 1 and result.unused.count == result.deleted.count == 0


def test_a_backup_that_stood_still_is_none(tmp_path: Path) -> None:
    """A laptop that slept: the prune went on without it."""
    store = Folder(tmp_path)
    with pytest.raises(TrackbedError, match="stood still"), Writer(store, "p", {}, "here") as writer:
        writer._flag._last -= running.STALE + 60
        writer.database(io.BytesIO(b"x"))
        writer.finish(FACTS)
    assert repository.names(store) == []


def test_the_flag_is_refreshed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "REFRESH", 0.01)
    store = Folder(tmp_path)
    with running.Flag(store) as flag:
        (path,) = (tmp_path / "running").iterdir()
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0, pause=0.01)
        assert flag.began > 0


# archives in a folder


def write_archive(path: Path) -> None:
    with path.open("wb") as stream:
        writer = archive.Writer(stream, {"made": "x"})
        writer.database(io.BytesIO(b"PGDMP"))
        writer.finish(FACTS)


def test_archives_go_too_and_those_of_other_tasks_stay(tmp_path: Path) -> None:
    given = project(tmp_path, project="p")
    folder = given.settings.folder / "backups"
    folder.mkdir(parents=True)
    for name in ("trackbed-p-20260101T000000Z", "trackbed-p-20260102T000000Z", "before-trackbed-p-20260101T000000Z"):
        write_archive(folder / f"{name}.tar")
    result = manage.pruned(given, "", Policy(last=1), True, False, Silent())
    assert [stays for _, stays, _ in result.rows] == [False, True] and len(list(folder.iterdir())) == 3
    manage.pruned(given, "", Policy(last=1), False, False, Silent())
    assert sorted(path.name[:7] for path in folder.iterdir()) == ["before-", "trackbe"]


def test_listing(tmp_path: Path) -> None:
    store = Folder(tmp_path / "repo")
    good, bad = write(store, {"1/a": b"x"}), write(store, {"1/a": b"x"})
    for top in ("backups", "copies"):
        (tmp_path / "repo" / top / f"{bad.name}.json").write_bytes(b"{}")
    rows = manage.listing(project(tmp_path), str(tmp_path / "repo"))
    assert [row.backup for row in rows] == [str(good), str(bad)]
    assert (rows[0].objects, rows[0].object_bytes, rows[0].runs, rows[0].problem) == (1, 1, 1, "")
    assert "its manifest is damaged" in rows[1].problem


def test_a_listing_names_what_lacks_files_of_the_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else somebody restores it for them, and the one before it is forgotten."""
    store = Folder(tmp_path / "repo")
    write(store, {"1/a": b"x"})
    lacking = write(store, {"1/a": b"x"}, workspace_problem="the notebook's workspace: no answer")
    monkeypatch.setattr(options, "load", lambda given: project(tmp_path))
    data.list_backups({}, str(tmp_path / "repo"), "table", False)
    assert f"the notebook: {lacking.name}.json; the notebook's workspace: no answer" in capsys.readouterr().err
    assert [row.lacks for row in manage.listing(project(tmp_path), str(tmp_path / "repo"))] == [
        "",
        "the notebook's workspace: no answer",
    ]


_PRUNE = """
import sys
from pathlib import Path
from helpers.backups import prune, repository
from helpers.backups.retention import Policy
from helpers.backups.storage import Folder
from tests.unit.fakes import Silent
repository.PIECE = 1000
print("go", flush=True)
prune.prune(Folder(Path(sys.argv[1])), "p", Policy(last=3), Silent(), at_once=True)
"""


def test_kill_9(tmp_path: Path) -> None:
    rng = random.Random(2)
    store = Folder(tmp_path)
    for number in range(12):
        write(store, {f"1/{number}/{i}": rng.randbytes(900) for i in range(30)})
    age(tmp_path)
    newest = sorted(repository.names(store))[-3:]
    for delay in (0.0, 0.01, 0.03, 0.06):
        with subprocess.Popen(
            [sys.executable, "-c", _PRUNE, str(tmp_path)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert set(newest) <= set(whole(tmp_path))
    run(store, keep=3, at_once=True)
    assert whole(tmp_path) == newest
    present(tmp_path)


def test_blobs_are_listed_with_their_time(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.write("pieces/ab/x", b"12")
    (blob,) = store.listed("pieces")
    assert blob == Blob("pieces/ab/x", 2, store.modified("pieces/ab/x")) and abs(blob.modified - time.time()) < 60
