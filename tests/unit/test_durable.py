"""Acknowledged means on the disk (trackbed_mlflow/durability.py, write_journal.py, store_sync.py): what is synced, and when."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from trackbed_mlflow import durability, errors, folder_objects, removed_objects, store_sync, write_journal

from tests.conftest import PATIENCE, until


class Disk:
    """Notes the order of fsync and replace; paths relative to ``root``."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.events = root, list[tuple[str, str]]()
        really_sync, really_replace = os.fsync, os.replace

        def fsync(number: int) -> None:
            self._note("sync", os.readlink(f"/proc/self/fd/{number}"))
            really_sync(number)

        def replace(source: str, target: str) -> None:
            self._note("replace", target)
            really_replace(source, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)

    def _note(self, what: str, path: str) -> None:
        name = os.path.relpath(path, self.root)
        if not name.startswith(".."):  # a thread that an earlier test left has files elsewhere
            self.events.append((what, name))

    def synced(self) -> list[str]:
        result = [name for what, name in self.events if what == "sync"]
        self.events.clear()
        return result


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


class FakeRepository:
    """As much of MLflow's LocalArtifactRepository as is changed."""

    def __init__(self, artifact_dir: Path) -> None:
        self.artifact_dir = str(artifact_dir)

    def _publish_staged_artifact(
        self, temp: str, destination: str, finalize: Callable[[str], None] | None = None
    ) -> None:
        raise AssertionError("MLflow's own does not sync")

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        target = Path(self.artifact_dir, artifact_path or "")
        target.mkdir(parents=True, exist_ok=True)
        for file in Path(local_dir).iterdir():
            (target / file.name).write_bytes(file.read_bytes())

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        Path(self.artifact_dir, artifact_path or "").unlink()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FakeRepository, write_journal.Journal]:
    module = ModuleType("mlflow.store.artifact.local_artifact_repo")
    changed = type("LocalArtifactRepository", (FakeRepository,), {})
    module.LocalArtifactRepository = changed  # type: ignore[attr-defined]
    for name in ("mlflow", "mlflow.store", "mlflow.store.artifact"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    live = tmp_path / "artifacts" / "main"
    live.mkdir(parents=True)
    journal = durability.make_durable({"MLFLOW_ARTIFACTS_DESTINATION": live.as_uri()})
    assert journal is not None
    return changed(live), journal


def lines(journal: write_journal.Journal, count: int) -> list[list[Any]]:
    """The journal, once it has so many lines; one that is being written does not count."""
    path = journal.folder / write_journal.JOURNAL

    def whole() -> list[str]:
        written = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in written if line.endswith("\n")]

    until(lambda: len(whole()) >= count, pause=0.01)
    return [json.loads(line) for line in whole()]


def test_a_file_is_synced_before_it_has_its_name_and_its_folders_after(
    disk: Disk, repository: tuple[FakeRepository, write_journal.Journal]
) -> None:
    place, journal = repository
    folder = Path(place.artifact_dir, "1", "run", "artifacts")
    folder.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        staged = folder / (errors.STAGED + name)
        staged.write_bytes(b"content")
        place._publish_staged_artifact(str(staged), str(folder / name))
    root = "artifacts/main"
    first, *rest = disk.events[: disk.events.index(("sync", f"{root}/1/run/artifacts/{errors.STAGED}b.bin"))]
    assert first == ("sync", f"{root}/1/run/artifacts/{errors.STAGED}a.bin")
    assert rest[:4] == [
        ("replace", f"{root}/1/run/artifacts/a.bin"),
        ("sync", f"{root}/1/run/artifacts"),
        ("sync", f"{root}/1/run"),
        ("sync", f"{root}/1"),
    ]
    assert ("sync", root) in rest and ("sync", "artifacts") in rest
    # the folders above are known to be there from now on
    assert disk.events[len(rest) + 1 :] == [
        ("sync", f"{root}/1/run/artifacts/{errors.STAGED}b.bin"),
        ("replace", f"{root}/1/run/artifacts/b.bin"),
        ("sync", f"{root}/1/run/artifacts"),
    ]
    assert [line[:2] for line in lines(journal, 2)] == [[f"main/1/run/artifacts/{n}.bin", 7] for n in "ab"]


def test_an_error_of_the_disk_is_no_acknowledgement(
    repository: tuple[FakeRepository, write_journal.Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = repository
    staged = Path(place.artifact_dir, errors.STAGED + "x")
    staged.write_bytes(b"content")

    def broken(number: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        place._publish_staged_artifact(str(staged), f"{place.artifact_dir}/x")
    assert not Path(place.artifact_dir, "x").exists()


def test_a_folder_that_is_stored_at_once_is_synced_whole(
    disk: Disk, tmp_path: Path, repository: tuple[FakeRepository, write_journal.Journal]
) -> None:
    place, journal = repository
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.pkl").write_bytes(b"m")
    place.log_artifacts(str(source), "1/model")
    assert disk.synced()[:3] == ["artifacts/main/1/model/model.pkl", "artifacts/main/1/model", "artifacts/main/1"]
    place.delete_artifacts("1/model/model.pkl")
    until(lambda: lines(journal, 1)[-1] == ["main/1/model/model.pkl", None, None], pause=0.01)


def test_s3_without_the_service_stays_as_it_is() -> None:
    assert durability.make_durable({"MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/main"}) is None


# --- the journal and the check after an unclean stop


@pytest.fixture
def journal(tmp_path: Path) -> write_journal.Journal:
    created = write_journal.Journal(tmp_path)
    assert not created.begin()
    return created


def write(journal: write_journal.Journal, name: str, content: bytes) -> Path:
    path = journal.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    journal.note(str(path))
    return path


def test_after_a_clean_stop_nothing_is_checked(journal: write_journal.Journal) -> None:
    write(journal, "main/a", b"1").write_bytes(b"")
    journal.end()
    assert not write_journal.Journal(journal.root).begin()
    assert journal.check()["checked"] == 0


def test_after_an_unclean_stop_what_is_missing_or_damaged_is_named(journal: write_journal.Journal) -> None:
    write(journal, "main/kept", b"0" * 5000)
    write(journal, "main/empty", b"1" * 5000).write_bytes(b"")
    write(journal, "main/zeros", b"2" * 5000).write_bytes(bytes(5000))
    write(journal, "main/gone", b"3").unlink()
    write(journal, "main/twice", b"4").write_bytes(b"other")
    journal.note(str(journal.root / "main/twice"))
    write(journal, "main/deleted/a", b"5").unlink()
    journal.note(str(journal.root / "main/deleted"), there=False)
    with (journal.folder / write_journal.JOURNAL).open("ab") as stream:
        stream.write(b'["main/kept", 12\0\0\0\0\n\0\0')  # the end that the cut left
    again = write_journal.Journal(journal.root)
    assert again.begin()
    result = again.check()
    assert {k: result[k] for k in ("checked", "missing", "damaged", "by_size")} == {
        "checked": 5,
        "missing": 1,
        "damaged": 2,
        "by_size": 0,
    }
    assert result["names"] == ["main/empty", "main/gone", "main/zeros"]
    assert again.result() == result
    again.end()
    assert not write_journal.Journal(journal.root).begin() and again.result() == {}


def test_a_cut_in_the_middle_of_a_check_loses_none_of_it(journal: write_journal.Journal) -> None:
    write(journal, "main/a", b"1").unlink()
    for _ in range(2):
        assert write_journal.Journal(journal.root).begin()
    write(journal, "main/b", b"1").unlink()
    last = write_journal.Journal(journal.root)
    assert last.begin()
    last.end()  # `down` before the check was through
    assert last.begin()
    assert last.check()["names"] == ["main/a", "main/b"]


def test_a_check_reads_no_more_than_its_budget(journal: write_journal.Journal) -> None:
    write(journal, "old", b"1" * 100).write_bytes(bytes(100))
    write(journal, "short", b"1" * 100).write_bytes(b"1")
    write(journal, "new", b"1" * 100).write_bytes(bytes(100))
    result = write_journal.compare(
        journal.root, iter((journal.folder / write_journal.JOURNAL).read_bytes().splitlines()), 120
    )
    assert result["names"] == ["new", "short"] and result["by_size"] == 2


def test_the_journal_is_bounded(journal: write_journal.Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_journal, "LARGEST", 1000)
    path = write(journal, "main/a", b"1")
    for _ in range(200):
        journal.note(str(path))
    assert sum(file.stat().st_size for file in journal.folder.iterdir()) < 2200


def test_half_uploads_are_neither_listed_nor_kept(tmp_path: Path) -> None:
    old, young = tmp_path / "1" / f"{errors.STAGED}old", tmp_path / f"{errors.STAGED}young"
    old.parent.mkdir()
    for path in (old, young, tmp_path / "1" / "whole"):
        path.write_bytes(b"1")
    os.utime(old, (1, 1))
    assert [name for name, _ in folder_objects.FolderObjects(tmp_path).names()] == ["1/whole"]
    assert durability.staged_leftovers(tmp_path, time.time() - 60) == 1
    assert not old.exists() and young.exists()


# --- the service beside VersityGW's volume

TOKEN = "token-of-the-store-sync"


@pytest.fixture
def service(tmp_path: Path) -> store_sync.StoreSync:
    for name in ("objects/bucket/main/1/a.bin", "sidecar/bucket/main/1/a.bin/meta/etag"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"content")
    return store_sync.StoreSync(tmp_path, TOKEN)


def test_an_object_its_metadata_and_their_folders_are_synced(disk: Disk, service: store_sync.StoreSync) -> None:
    assert service.answer({"token": TOKEN, "bucket": "bucket", "keys": ["main/1/a.bin"]}) == {}
    synced = disk.synced()
    for tree in ("objects", "sidecar"):
        assert {f"{tree}/bucket/main/1", f"{tree}/bucket/main", f"{tree}/bucket", tree} <= set(synced)
    assert synced[0] == "objects/bucket/main/1/a.bin"
    assert {"sidecar/bucket/main/1/a.bin/meta/etag", "sidecar/bucket/main/1/a.bin/meta"} <= set(synced)
    assert lines(service.journal, 1)[0][:2] == ["objects/bucket/main/1/a.bin", 7]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"bucket": "bucket"},
        {"bucket": "bucket", "keys": []},
        {"bucket": "bucket", "keys": "a"},
        {"bucket": "..", "keys": ["x"]},
        {"bucket": "bucket", "keys": ["../../../etc/passwd"]},
        {"bucket": "bucket", "keys": ["/etc/passwd"]},
        {"bucket": "bucket", "keys": ["a//b"]},
        {"bucket": "bucket", "keys": ["a\0b"]},
        {"bucket": "a/b/..", "keys": ["a"]},
        {"bucket": 1, "keys": [2]},
        {"bucket": "bucket", "removed": "../x"},
    ],
)
def test_only_names_below_the_objects_are_taken(service: store_sync.StoreSync, request_: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        service.answer({"token": TOKEN, **request_})


def test_no_link_is_followed_to_another_file(service: store_sync.StoreSync) -> None:
    (service.root / "objects/bucket/link").symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        service.answer({"token": TOKEN, "bucket": "bucket", "keys": ["link"]})


def test_a_pipe_in_a_files_place_hangs_nobody(service: store_sync.StoreSync) -> None:
    pipe, said = service.root / "objects/bucket/main/1/pipe", list[object]()
    os.mkfifo(pipe)

    def ask() -> None:
        try:
            service.answer({"token": TOKEN, "bucket": "bucket", "keys": ["main/1/pipe"]})
        except OSError as error:
            said.append(error.errno)
        said.append(write_journal.checksum(pipe)[0])

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    assert len(said) == 2 and said[1] == 0


def test_a_folder_goes_with_its_metadata_and_nothing_else(
    service: store_sync.StoreSync, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.trash, "empty_behind", lambda: None)
    other, link = tmp_path / "other", service.root / "objects/bucket/main/1/link"
    stays = [f"{tree}/bucket/main{name}" for tree in ("objects", "sidecar") for name in ("-2/a", "2/a", "/22/a")]
    for path in (other / "kept", *map(service.root.joinpath, stays)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    link.symlink_to(other)
    (link.parent / "file").symlink_to(other / "kept")
    asked = {"token": TOKEN, "bucket": "bucket"}
    assert service.answer({**asked, "dropped": "main/1"}) == {"uploads": False}
    assert not [path for path in service.root.rglob("*") if "main/1" in str(path)]
    assert lines(service.journal, 1)[0][0] == "objects/bucket/main/1"
    service.trash.empty()
    assert not list((service.root / ".removed").iterdir()), "off the disk"
    (service.root / "objects/bucket/to").symlink_to(other)
    for name in ("main/1", "missing/1", "to"):
        assert service.answer({**asked, "dropped": name}) == {"uploads": False}
    with pytest.raises(OSError):
        service.answer({**asked, "dropped": "to/kept"})
    service.trash.empty()
    assert (other / "kept").exists() and all(map(os.path.exists, map(service.root.joinpath, stays)))
    (service.root / "objects/bucket/.sgwtmp/multipart/upload").mkdir(parents=True)
    assert service.answer({**asked, "dropped": "main/22"}) == {"uploads": True}


def test_what_was_put_aside_goes_with_the_next_start(
    service: store_sync.StoreSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[int] = []
    monkeypatch.setattr(service.trash, "empty_behind", lambda: began.append(1))
    service.answer({"token": TOKEN, "bucket": "bucket", "dropped": "main"})
    assert len(list((service.root / ".removed").iterdir())) == 2 and began == [1]
    later = store_sync.StoreSync(service.root, TOKEN)
    monkeypatch.setattr(later.trash, "empty_behind", later.trash.empty)
    later.begin()
    assert not list((service.root / ".removed").iterdir())


def test_what_was_put_aside_stays_aside_after_a_power_cut(
    service: store_sync.StoreSync, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.trash, "empty_behind", lambda: None)
    service.answer({"token": TOKEN, "bucket": "bucket", "dropped": "main"})
    top, (first, *synced) = os.path.relpath(service.root, disk.root), disk.synced()
    folders = (".", ".removed", "objects/bucket", "sidecar/bucket")
    assert {os.path.normpath(f"{top}/{name}") for name in folders} <= set(synced)
    assert first == os.path.normpath(f"{top}/.written/journal"), "the check afterwards knows that it was removed"


def test_a_full_disk_keeps_nobody_from_removing(service: store_sync.StoreSync, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, there: bool = True) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(service.journal, "note", full)
    service.answer({"token": TOKEN, "bucket": "bucket", "dropped": "main"})
    assert not (service.root / "objects/bucket/main").exists()


def test_what_the_disk_keeps_holds_up_nothing_else(
    service: store_sync.StoreSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    trash, rmdir, asked = service.root / ".removed", os.rmdir, list[str]()
    for name in ("a", "b", "c"):
        (trash / name / "in").mkdir(parents=True)

    def refused(name: str, *, dir_fd: int | None = None) -> None:
        if name in ("a", "b", "c"):  # an earlier test's thread may still remove its own
            asked.append(name)
            if name == asked[0]:
                raise OSError(5, "Input/output error")
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", refused)
    service.trash.empty()
    assert [path.name for path in trash.iterdir()] == asked[:1] and len(asked) == 3
    monkeypatch.setattr(os, "rmdir", rmdir)
    service.trash.empty()
    assert not list(trash.iterdir())


def test_a_path_deeper_than_the_files_that_may_be_open_is_removed(
    service: store_sync.StoreSync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removed_objects, "DEEP", 3)
    opened, most, plain, close = set[int](), list[int](), os.open, os.close
    own = threading.get_ident()  # a thread that an earlier test left may open files meanwhile

    def count(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        number = plain(path, flags, mode, dir_fd=dir_fd)
        if threading.get_ident() == own:
            opened.add(number)
            most.append(len(opened))
        return number

    def uncount(number: int) -> None:
        opened.discard(number)
        close(number)

    deep = service.root / ".removed/x" / "/".join(["f"] * 20)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"")
    monkeypatch.setattr(os, "open", count)
    monkeypatch.setattr(os, "close", uncount)
    service.trash.empty()
    assert not list((service.root / ".removed").iterdir()) and max(most) <= 4 and not opened


def test_only_folders_of_objects_are_removed_and_only_for_the_server(service: store_sync.StoreSync) -> None:
    for name in ("", "..", "main/..", "/main", ".sgwtmp/multipart", 1, None):
        with pytest.raises(ValueError):
            service.answer({"token": TOKEN, "bucket": "bucket", "dropped": name})
    service.journal.begin()  # of an earlier version, whose server has no token yet
    lenient = store_sync.StoreSync(service.root, TOKEN)
    with pytest.raises(PermissionError):
        lenient.answer({"bucket": "bucket", "dropped": "main"})
    assert (service.root / "objects/bucket/main/1/a.bin").exists()


def test_what_the_service_cannot_remove_is_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [{"uploads": False}, {"uploads": True}, {}, OSError("ValueError: no keys")]

    def ask(address: str, **words: Any) -> Any:
        assert (address, words) == ("sync:1", {"bucket": "b", "dropped": "p", "token": ""})
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(durability, "ask", ask)
    asked = {"TRACKBED_STORE_SYNC": "sync:1"}
    assert [durability.drop(asked, "b", "p") for _ in range(4)] == [True, False, False, False]
    assert not durability.drop({}, "b", "p")


def test_the_whole_file_system_at_once(service: store_sync.StoreSync) -> None:
    assert service.answer({"token": TOKEN, "all": True}) == {}


def test_over_the_network_an_error_of_the_service_is_an_error_here(service: store_sync.StoreSync) -> None:
    with store_sync.Server(("127.0.0.1", 0), store_sync.Handler) as server:
        server.store = service  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        try:
            assert durability.ask(address, 5, token=TOKEN, bucket="bucket", keys=["main/1/a.bin"]) == {}
            with pytest.raises(OSError, match="No such file"):
                durability.ask(address, 5, token=TOKEN, bucket="bucket", keys=["main/1/missing"])
            with pytest.raises(OSError, match="no name of an object"):
                durability.ask(address, 5, token=TOKEN, bucket="bucket", keys=["../x"])
        finally:
            server.shutdown()
    with pytest.raises(OSError):
        durability.ask(address, 5, result=True)


# --- other accounts of the machine reach the service's container, too


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"token": ""},
        {"token": "wrong"},
        {"token": None},
        {"token": [TOKEN]},
        {"token": TOKEN + "x"},
        {"token": "\ud800"},
    ],
)
@pytest.mark.parametrize("request_", [{"result": True}, {"all": True}, {"bucket": "bucket", "removed": "main"}])
def test_without_the_token_nothing_is_answered(
    service: store_sync.StoreSync, words: dict[str, Any], request_: dict[str, Any]
) -> None:
    service.begin()
    with pytest.raises(PermissionError):
        service.answer({**words, **request_})
    assert lines(service.journal, 0) == []


def test_a_system_that_is_half_updated_goes_on_until_its_server_sends_the_token(service: store_sync.StoreSync) -> None:
    service.journal.begin()  # an earlier version, which asked nobody

    def started() -> store_sync.StoreSync:
        created = store_sync.StoreSync(service.root, TOKEN)
        created.begin()
        return created

    asked = {"bucket": "bucket", "keys": ["main/1/a.bin"]}
    for _ in range(2):
        later = started()
        assert later.answer(asked) == {}
        with pytest.raises(PermissionError):
            later.answer({**asked, "token": "wrong"})
    assert later.answer({**asked, "token": TOKEN}) == {}
    for known in (later, started()):
        with pytest.raises(PermissionError):
            known.answer(asked)


def test_the_service_does_not_start_without_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("", str(tmp_path / "missing")):
        monkeypatch.setenv(durability.TOKEN_FILE, path)
        with pytest.raises(errors.Stop):
            store_sync.serve(tmp_path)
