"""The backup repository: what is equal is stored once, and anything that was changed is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import console, invocations, lifecycle, status
from helpers.backups import (
    archive,
    bucket,
    disk_space,
    formats,
    locations,
    repository,
    repository_writer,
    restore,
    storage,
    unpack,
)
from helpers.backups.repository import Entry, Snapshot
from helpers.backups.repository_writer import Writer
from helpers.backups.storage import Folder
from helpers.cli import data, options
from helpers.data.checksum import SetSum
from helpers.engines import select
from helpers.errors import SettingError, TrackbedError
from helpers.project import users
from tests.conftest import PATIENCE
from tests.unit import fakes

FACTS: dict[str, Any] = {"schema": "abc", "mlflow": "3", "tables": {"runs": ["1", "5"]}, "dump_bytes": 10245}
DUMP = b"PGDMP" + bytes(range(256)) * 40
OBJECTS = {
    "1/r/ä b.txt": b"hello",
    "1/r/leer": b"",
    "1/" + "x" * 300: b"\0" * 5000,
    "1/r/same": b"hello",
    "1/r/\udcff": bytes(range(250)) * 10,
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "PIECE", 1000)


class Reads:
    """A store's objects, which counts what is read of them."""

    def __init__(self, objects: dict[str, bytes], marks: dict[str, str] | None = None) -> None:
        self.objects = objects
        self.marks = (
            {name: hashlib.sha256(content).hexdigest() for name, content in objects.items()} if marks is None else marks
        )
        self.read: list[str] = []

    def into(self, writer: Writer) -> None:
        listed = [(name, len(content), self.marks.get(name, "")) for name, content in self.objects.items()]
        for name in writer.listed(listed):
            self.read.append(name)
            writer.object(name, len(self.objects[name]), io.BytesIO(self.objects[name]))


def back_up(folder: Path, store: Reads, origin: str = "here", project: str = "p") -> Snapshot:
    place = Folder(folder)
    with Writer(place, project, {"made": "2026-01-01T00:00:00+00:00"}, origin) as writer:
        writer.small("settings.json", b"{}")
        writer.database(io.BytesIO(DUMP))
        store.into(writer)
        name, _ = writer.finish(FACTS)
    return Snapshot(place, name)


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    return {name: content.read() for name, _, content in snapshot.members(snapshot.verify())}


def stored_pieces(snapshot: Snapshot) -> set[str]:
    return {path.name for path in Path(str(snapshot.store), "pieces").rglob("*") if path.is_file()}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return back_up(tmp_path / "repo", Reads(OBJECTS))


def test_round_trip(snapshot: Snapshot) -> None:
    result = contents(snapshot)
    assert {name.removeprefix("objects/"): c for name, c in result.items() if name.startswith("objects/")} == OBJECTS
    assert b"".join(c for name, c in result.items() if name.startswith("database/")) == DUMP
    manifest = snapshot.manifest()
    assert manifest["objects"] == 5 and manifest["chunks"] == 11 and manifest["unchanged_objects"] == 0


def test_members_that_are_not_read_are_skipped(snapshot: Snapshot) -> None:
    listed = [(name, size) for name, size, _ in snapshot.members(snapshot.manifest()) if name.startswith("objects/")]
    assert dict(listed) == {f"objects/{name}": len(content) for name, content in OBJECTS.items()}


def test_the_sum_is_that_of_an_archive(snapshot: Snapshot) -> None:
    """What the store gives back after a restore is compared with it, whichever form the backup has."""
    sums = SetSum()
    for name, content in OBJECTS.items():
        sums.add(hashlib.sha256(content).hexdigest(), len(content), name)
    assert snapshot.manifest()["objects_sum"] == sums.text
    assert snapshot.manifest()["largest_object"] == max(map(len, OBJECTS.values()))


def test_the_second_backup_reads_and_stores_only_what_is_new(tmp_path: Path, snapshot: Snapshot) -> None:
    before = stored_pieces(snapshot)
    store = Reads({**OBJECTS, "2/new": b"new", "1/r/leer": b"no more"})
    second = back_up(tmp_path / "repo", store)
    assert sorted(store.read) == ["1/r/leer", "2/new"]
    manifest = second.manifest()
    assert manifest["unchanged_objects"] == 4 and manifest["objects"] == 6
    new = stored_pieces(second) - before
    assert len(new) == manifest["new_pieces"]
    assert new - set(manifest["list"]) == {sha(b"new"), sha(b"no more")}
    assert contents(second)["objects/2/new"] == b"new" and contents(second)["objects/1/r/same"] == b"hello"
    assert contents(snapshot)["objects/1/r/leer"] == b""
    assert second.name > snapshot.name


@pytest.mark.parametrize("marks", [{}, dict.fromkeys(OBJECTS, "other")])
def test_without_the_same_mark_it_is_read_and_stored_once(
    tmp_path: Path, snapshot: Snapshot, marks: dict[str, str]
) -> None:
    store, before = Reads(OBJECTS, marks), stored_pieces(snapshot)
    second = back_up(tmp_path / "repo", store)
    assert sorted(store.read) == sorted(OBJECTS)
    assert stored_pieces(second) - before <= set(second.manifest()["list"])


def test_marks_of_another_store_mean_nothing(tmp_path: Path, snapshot: Snapshot) -> None:
    store = Reads(OBJECTS)
    back_up(tmp_path / "repo", store, origin="elsewhere")
    assert sorted(store.read) == sorted(OBJECTS)


def test_a_size_that_differs_is_read_whatever_the_mark(tmp_path: Path, snapshot: Snapshot) -> None:
    store = Reads({**OBJECTS, "1/r/leer": b"1"}, {name: hashlib.sha256(c).hexdigest() for name, c in OBJECTS.items()})
    back_up(tmp_path / "repo", store)
    assert store.read == ["1/r/leer"]


def test_a_piece_that_was_lost_is_stored_again(tmp_path: Path, snapshot: Snapshot) -> None:
    piece(snapshot, b"hello").unlink()
    store = Reads(OBJECTS)
    second = back_up(tmp_path / "repo", store)
    assert sorted(store.read) == ["1/r/same", "1/r/ä b.txt"]
    assert contents(second) == contents(snapshot)


def test_an_unreadable_last_backup_means_reading_everything(tmp_path: Path, snapshot: Snapshot) -> None:
    path = Path(str(snapshot))
    path.write_bytes(path.read_bytes()[:-5])
    alone(snapshot)
    store = Reads(OBJECTS)
    assert contents(back_up(tmp_path / "repo", store))["objects/1/r/same"] == b"hello"
    assert sorted(store.read) == sorted(OBJECTS)


def test_a_backup_that_ended_early_is_none_and_harms_none(tmp_path: Path, snapshot: Snapshot) -> None:
    before = contents(snapshot)
    with pytest.raises(TrackbedError, match="ended 95 bytes early"), Writer(snapshot.store, "p", {}, "here") as writer:
        writer.database(io.BytesIO(DUMP))
        list(writer.listed([("1/cut", 100, "")]))
        writer.object("1/cut", 100, io.BytesIO(b"hello"))
    (tmp_path / "repo" / "incoming" / "0123").write_bytes(b"of a killed backup")
    assert repository.names(snapshot.store) == [snapshot.name]
    assert contents(snapshot) == before
    assert contents(back_up(tmp_path / "repo", Reads(OBJECTS))) == before


def test_leftovers_of_killed_backups_go_and_what_is_being_written_stays(tmp_path: Path, snapshot: Snapshot) -> None:
    incoming = tmp_path / "repo" / "incoming"
    (incoming / "killed").write_bytes(b"x")
    handle = storage._incoming(incoming / "written now")
    back_up(tmp_path / "repo", Reads(OBJECTS))
    assert [path.name for path in incoming.iterdir()] == ["written now"]
    os.close(handle)
    Folder(tmp_path / "repo").begin()
    assert not list(incoming.iterdir())


def test_everything_is_private(tmp_path: Path, snapshot: Snapshot) -> None:
    for path in (tmp_path / "repo", *(tmp_path / "repo").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


# what is damaged or made up


def piece(snapshot: Snapshot, content: bytes) -> Path:
    digest = hashlib.sha256(content).hexdigest()
    return Path(str(snapshot.store)) / "pieces" / digest[:2] / digest


def store(snapshot: Snapshot, content: bytes) -> str:
    path = piece(snapshot, content)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path.name


def crafted(snapshot: Snapshot, text: bytes | None = None, **facts: object) -> None:
    """Replace list and manifest by ones that fit to each other: what someone who knows the format could make."""
    manifest = snapshot.manifest()
    alone(snapshot)
    if text is not None:
        manifest["list"] = [store(snapshot, text[at : at + 1000]) for at in range(0, len(text), 1000)]
        manifest["list_bytes"] = len(text)
    Path(str(snapshot)).write_bytes(repository.rendered({**manifest, **facts}))


def alone(snapshot: Snapshot) -> None:
    """As older versions left it: manifest and list are there once."""
    shutil.rmtree(Path(str(snapshot.store), "copies"), ignore_errors=True)


def lines(snapshot: Snapshot) -> list[Entry]:
    return list(snapshot.entries(snapshot.manifest()))


def test_the_crafting_itself_is_accepted(snapshot: Snapshot) -> None:
    crafted(snapshot, b"".join(entry.line for entry in lines(snapshot)))
    snapshot.verify()


@pytest.mark.parametrize("part", range(20))
def test_a_flipped_byte_in_any_piece_is_refused(snapshot: Snapshot, part: int) -> None:
    alone(snapshot)
    chosen = random.Random(part)
    files = sorted(path for path in Path(str(snapshot.store), "pieces").rglob("*") if path.is_file())
    path = files[part % len(files)]
    content = bytearray(path.read_bytes())
    content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
    path.write_bytes(content)
    with pytest.raises(TrackbedError, match="damaged"):
        snapshot.verify()


@pytest.mark.parametrize("part", range(20))
def test_a_flipped_byte_in_the_manifest_is_refused(snapshot: Snapshot, part: int) -> None:
    alone(snapshot)
    chosen, path = random.Random(part), Path(str(snapshot))
    content = bytearray(path.read_bytes())
    step = len(content) // 20
    content[part * step + chosen.randrange(step)] ^= 1 << chosen.randrange(8)
    path.write_bytes(content)
    with pytest.raises(TrackbedError):
        snapshot.verify()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _link(path: Path) -> None:
    """To the very content: it is not a link's place to tell what is in a pool."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _huge(path: Path) -> None:
    os.truncate(path, 2**40)  # sparse: must be refused without reading it


HARM = [_cut, _longer, _empty, _link, _folder, _pipe, _huge, Path.unlink]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("which", ["object", "dump", "list", "manifest"])
def test_harm_to_any_file_is_refused(snapshot: Snapshot, which: str, harm: Callable[[Path], None]) -> None:
    alone(snapshot)
    listed = snapshot.manifest()["list"][0]
    harm(
        {
            "object": piece(snapshot, b"hello"),
            "dump": piece(snapshot, DUMP[:1000]),
            "list": Path(str(snapshot.store), "pieces", listed[:2], listed),
            "manifest": Path(str(snapshot)),
        }[which]
    )
    with pytest.raises(TrackbedError):
        snapshot.verify()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("which", ["list", "manifest"])
def test_manifest_and_list_are_there_twice(snapshot: Snapshot, which: str, harm: Callable[[Path], None]) -> None:
    before = contents(snapshot)
    listed = snapshot.manifest()["list"][0]
    path = Path(str(snapshot.store), "pieces", listed[:2], listed) if which == "list" else Path(str(snapshot))
    if which == "manifest" and harm is Path.unlink:
        return  # whoever removes a manifest wants to forget that backup
    harm(path)
    if harm not in (_link, _folder, _pipe) or which == "list":
        assert contents(snapshot) == before


@pytest.mark.timeout(30)
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_restoring_it_begins_nothing(
    tmp_path: Path, snapshot: Snapshot, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*_: object) -> None:
        raise AssertionError("something was begun")

    monkeypatch.setattr(status, "running", begun)
    for name in ("up", "changing"):
        monkeypatch.setattr(lifecycle, name, begun)
    project = fakes.project(tmp_path)
    harm(piece(snapshot, b"hello"))
    with pytest.raises(TrackbedError, match="damaged|missing"):
        restore.restore(project, snapshot, fakes.Silent(), begun)
    assert not project.settings.folder.exists()


def test_the_backup_that_somebody_was_asked_about_is_restored(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule makes another one while the question waits."""
    restored: list[object] = []

    def answer(question: str) -> bool:
        restored.append(str(snapshot) in question)
        return str(back_up(tmp_path / "repo", Reads(OBJECTS))) != str(snapshot)

    def verify(source: object, *_: object) -> None:
        restored.append(str(source))
        raise TrackbedError("far enough")

    project = fakes.project(tmp_path)
    project.state.existed = True
    monkeypatch.setattr(options, "load", lambda given: project)
    monkeypatch.setattr(console, "confirm", answer)
    monkeypatch.setattr(select, "current", lambda _: None)
    monkeypatch.setattr(disk_space, "check_manifest", lambda *_: None)
    monkeypatch.setattr(unpack, "verify", verify)
    with pytest.raises(TrackbedError, match="far enough"):
        data.restore({}, str(tmp_path / "repo"), "", False, False, False, False)
    assert restored == [True, str(snapshot)]


def test_what_to_type_is_for_the_project_that_it_goes_into(
    tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise TrackbedError("mlflow did not start")

    for name in [name for name in os.environ if name.startswith("TRACKBED_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("sys.argv", ["/venv/bin/invoke", "restore", "--project=one"])
    monkeypatch.setattr(invocations, "_beside", "")
    monkeypatch.setattr(lifecycle, "up", fails)
    assert invocations.anywhere("logs mlflow").endswith("logs mlflow --project=one")
    with pytest.raises(TrackbedError, match="did not start"):
        restore.restore(fakes.project(tmp_path), snapshot, fakes.Silent(), fails, into="two")
    assert invocations.anywhere("logs mlflow").endswith("logs mlflow --project=two")


@pytest.mark.parametrize(
    "facts",
    [
        {"objects": 4},
        {"objects": "3"},
        {"objects": True},
        {"chunks": -1},
        {"object_bytes": 1},
        {"tables": []},
        {"schema": None},
        {"objects_sum": "0"},
        {"format": True},
        {"format": "1"},
        {"mlflow": 3},
        {"kind": "x"},
        {"list": []},
        {"list": ["0" * 64]},
        {"list": ["../../../../etc/passwd"]},
        {"list": [1]},
        {"list": "x"},
        {"list_bytes": 10**18},
        {"list_bytes": -1},
        {"list_bytes": 0},
        {"list_bytes": "9"},
        {"dump_bytes": None},
        {"origin": None},
        {"object_bytes": -1},
        {"objects": -1},
        {"dump_bytes": -1},
        {"dump_bytes": 1},
    ],
)
def test_wrong_manifests_are_refused(snapshot: Snapshot, facts: dict[str, object]) -> None:
    crafted(snapshot, None, **facts)
    with pytest.raises(TrackbedError):
        snapshot.verify()


def test_a_newer_format_is_named(snapshot: Snapshot) -> None:
    crafted(snapshot, format=formats.FORMAT + 1)
    with pytest.raises(TrackbedError, match="newer Trackbed"):
        snapshot.verify()


GOOD = ["objects/1/a", 5, sha(b"hello"), "", [sha(b"hello")]]


def _changed(position: int, value: object) -> bytes:
    return json.dumps([*GOOD[:position], value, *GOOD[position + 1 :]]).encode() + b"\n"


@pytest.mark.parametrize(
    "line",
    [
        *(
            _changed(0, name)
            for name in (
                "objects/../../etc/passwd",
                "objects/a/../b",
                "/etc/passwd",
                "objects//a",
                "objects/./a",
                "objects/",
                "objects",
                "other.json",
                "database/000000",
                "objects/a\0b",
                "../x",
                "",
                1,
                None,
                "database",
                "settings.json",
            )
        ),
        *(_changed(1, size) for size in (4, 6, -1, 2**62, True, "5", None, 5.0)),
        *(_changed(2, digest) for digest in (sha(b"other"), "../x", "", None, sha(b"hello").upper())),
        *(_changed(3, mark) for mark in (None, 1)),
        *(
            _changed(4, pieces)
            for pieces in (
                [],
                [sha(b"missing")],
                ["../../../../../etc/passwd"],
                ["/etc/passwd"],
                [sha(b"hello")] * 2,
                "x",
                None,
                [None],
            )
        ),
        json.dumps(GOOD).encode(),
        json.dumps(GOOD[:4]).encode() + b"\n",
        b"\n",
        b"{}\n",
        b"\xff\n",
        b"[" * 900 + b"\n",
        b"null\n",
        _changed(0, "objects/1/r/same"),
    ],
)
def test_wrong_lines_are_refused(snapshot: Snapshot, line: bytes) -> None:
    """The manifest fits to the list: the list itself must not pass."""
    text = b"".join(entry.line for entry in lines(snapshot))
    manifest = snapshot.manifest()
    good = json.dumps(GOOD).encode() + b"\n"
    sums = SetSum()
    for entry in lines(snapshot):
        if entry.object:
            sums.add(entry.sha256, entry.size, entry.object)
    sums.add(sha(b"hello"), 5, "1/a")
    facts = {"objects": manifest["objects"] + 1, "object_bytes": manifest["object_bytes"] + 5, "objects_sum": sums.text}
    crafted(snapshot, text + good, **facts)
    snapshot.verify()  # the line as it should be
    crafted(snapshot, text + line, **facts)
    with pytest.raises(TrackbedError):
        snapshot.verify()


def recording(read: list[str]) -> Callable[[Snapshot, str, int], bytes]:
    """The way to fetch a piece, which notes the names that it was asked for."""
    fetch = Snapshot._fetch

    def noted(snapshot: Snapshot, digest: str, size: int) -> bytes:
        read.append(digest)
        return fetch(snapshot, digest, size)

    return noted


def test_a_line_without_end_is_refused_in_constant_memory(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "LINE", 5000)
    read: list[str] = []
    monkeypatch.setattr(Snapshot, "_fetch", recording(read))
    crafted(snapshot, random.Random(1).randbytes(1_000_000).replace(b"\n", b" "))
    with pytest.raises(TrackbedError, match="without an end"):
        snapshot.verify()
    assert len(read) < 50


def test_a_piece_that_is_named_many_times_is_read_no_more_often_than_its_manifest_says(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few KB would unpack into a full disk."""
    read: list[str] = []
    monkeypatch.setattr(Snapshot, "_fetch", recording(read))
    content = OBJECTS["1/" + "x" * 300][:1000]
    text = b"".join(entry.line for entry in lines(snapshot))
    many = [Entry(f"objects/1/many {n}", 1000 * 12, sha(content), "", [sha(content)] * 12) for n in range(300)]
    crafted(snapshot, text + b"".join(entry.line for entry in many))
    with pytest.raises(TrackbedError, match="more than its manifest says, from 'objects/1/many 0'"):
        snapshot.verify()
    assert read.count(sha(content)) < 50


def test_a_list_that_names_one_of_its_own_pieces_often_is_refused(snapshot: Snapshot) -> None:
    manifest = snapshot.manifest()
    crafted(snapshot, list=[manifest["list"][0]] * 1000, list_bytes=1000 * 1000)
    with pytest.raises(TrackbedError, match="its manifest is wrong"):
        snapshot.manifest()


# what --to and `restore` name


def test_words_for_a_target(tmp_path: Path) -> None:
    project = fakes.project(tmp_path)
    assert str(locations.target(project.settings, "")).startswith(
        str(project.settings.folder / "backups" / "trackbed-")
    )
    assert locations.target(project.settings, str(tmp_path / "a.tar")) == tmp_path / "a.tar"
    for word in (str(tmp_path), f"{tmp_path}/new/"):
        assert isinstance(locations.target(project.settings, word), Folder)
    with pytest.raises(TrackbedError, match="no such folder"):
        locations.target(project.settings, f"{tmp_path}/missing/a.tar")
    (tmp_path / "a.tar").touch()
    with pytest.raises(TrackbedError, match="already"):
        locations.target(project.settings, f"{tmp_path}/a.tar")


def test_words_for_a_source(tmp_path: Path) -> None:
    settings = fakes.project(tmp_path).settings
    first = back_up(tmp_path / "repo", Reads(OBJECTS), project="other")
    second = back_up(tmp_path / "repo", Reads(OBJECTS), project="other")
    for words in ("repo", "repo/"):
        assert str(locations.source(settings, f"{tmp_path}/{words}")) == str(second)
    for words in (str(first), f"{tmp_path}/repo/{first.name}"):
        assert str(locations.source(settings, words)) == str(first)
    for words in ("repo/trackbed-other-20200101T000000Z", "missing", "repo/pieces", "missing.tar"):
        with pytest.raises(TrackbedError, match="no backup found"):
            locations.source(settings, f"{tmp_path}/{words}")
    back_up(tmp_path / "repo", Reads(OBJECTS), project="third")
    with pytest.raises(TrackbedError, match="several projects"):
        locations.source(settings, f"{tmp_path}/repo")
    own = back_up(tmp_path / "repo", Reads(OBJECTS), project=settings.project)
    assert str(locations.source(settings, f"{tmp_path}/repo")) == str(own)
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "a.tar").touch()
    assert locations.source(settings, f"{tmp_path}/backups/a.tar") == tmp_path / "backups" / "a.tar"
    shutil.rmtree(tmp_path / "repo")


def test_a_bucket_needs_its_keys_and_never_shows_them(tmp_path: Path) -> None:
    settings = fakes.project(tmp_path).settings
    with pytest.raises(SettingError, match="BACKUP_S3_ACCESS_KEY is missing"):
        locations.target(settings, "s3://bucket/x")
    access = bucket.Access("http://h:1", "eu", "the-key", "the-secret")
    assert "the-" not in repr(access)
    for url in ("s3://", "s3:/x", "s3://b/../c", "s3://b/a\nb"):
        with pytest.raises(TrackbedError, match="not the address of a bucket"):
            bucket.Bucket(url, access)
    assert str(bucket.Bucket("s3://bucket/a/b/", access)) == "s3://bucket/a/b"


def test_a_bucket_on_a_slow_line_has_time_to_take_a_blob() -> None:
    """urllib3 sends bytes within the time for the connection. How late a blob is moved is reckoned with the short time."""
    place = bucket.Bucket("s3://bucket", bucket.Access("http://127.0.0.1:9", "us-east-1", "key", "none"))
    times = [client.meta.config.connect_timeout for client in (place._sender, place._client)]
    assert times == [bucket.SENT, bucket.CONNECTED] and place._sender is place._sends
    attempts, answer = bucket.ATTEMPTS, place._client.meta.config.read_timeout
    assert place.move_seconds > bucket.STALLED + attempts * (bucket.CONNECTED + answer)


# who may log in


def test_logins_come_back_where_there_is_nobody(tmp_path: Path) -> None:
    old, new = fakes.project(tmp_path / "old").settings, fakes.project(tmp_path / "new").settings
    users.add(old, "ann")
    exported = users.exported(users.load(old))
    assert users.restore(new, users.imported(exported)) == ("ann",)
    assert users.path(new).read_bytes() == users.path(old).read_bytes()
    assert users.path(new).stat().st_mode & 0o777 == 0o600
    users.add(old, "bob")
    assert users.restore(new, users.load(old)) == ()
    assert list(users.load(new)) == ["ann"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"[]",
        b"[1]",
        b'{"ann": "x"}',
        b'{"ann": ["x", "y"]}',
        b'{"ann": []}',
        b'{"ann": null}',
        json.dumps({"a:b": ["0" * 32, "0" * 64]}).encode(),
        json.dumps({"a\nb": ["0" * 32, "0" * 64]}).encode(),
        json.dumps({"": ["0" * 32, "0" * 64]}).encode(),
        json.dumps({"ann": ["0" * 32, "0" * 64 + "\nx"]}).encode(),
    ],
)
def test_users_that_are_none_are_refused(content: bytes) -> None:
    with pytest.raises(TrackbedError):
        users.imported(content)


def test_the_small_parts_of_either_form(tmp_path: Path, snapshot: Snapshot) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as stream:
        writer = archive.Writer(stream, {})
        writer.small("users.json", b"{1}")
        writer.database(io.BytesIO(DUMP))
        writer.finish(FACTS)
    manifest = locations.verify(path)
    assert locations.small(path, manifest, "users.json") == b"{1}"
    assert locations.small(path, manifest, "settings.json") == b""
    assert locations.small(snapshot, snapshot.manifest(), "settings.json") == b"{}"
    assert locations.small(snapshot, snapshot.manifest(), "users.json") == b""


def test_a_reading_that_is_given_up_waits_for_nobody(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The garbage collector may close it in a thread that holds a lock which the end of another thread needs."""
    expected = sorted(
        (name, (Path(str(snapshot.store)) / repository.piece(name)).stat().st_size) for name in stored_pieces(snapshot)
    )
    fetch, slow = Snapshot._fetch, threading.Event()
    monkeypatch.setattr(
        Snapshot,
        "_fetch",
        lambda self, digest, size: (digest == expected[0][0] or slow.wait(2 * PATIENCE)) and fetch(self, digest, size),
    )
    reading = snapshot._ahead(expected)
    assert sha(next(reading)) == expected[0][0]
    closing = threading.Thread(target=reading.close)  # type: ignore[attr-defined]
    closing.start()
    closing.join(PATIENCE)
    try:
        assert not closing.is_alive()
    finally:
        slow.set()
        closing.join(PATIENCE)


@pytest.mark.parametrize("which", ["incoming", "pieces", "pieces/", "copies", "backups"])
def test_links_in_a_repository_lead_nobody_elsewhere(tmp_path: Path, which: str) -> None:
    """Whoever hands it over could name a folder of root's: files would be written there, and what is there removed."""
    theirs, victim = tmp_path / "repo", tmp_path / "etc"
    victim.mkdir()
    (victim / "passwd").write_bytes(b"kept")
    path = {"pieces": "pieces/ab/abc", "pieces/": "pieces/ab/abc", "incoming": "pieces/ab/abc"}.get(which, f"{which}/a")
    link = theirs / (which + "ab" if which.endswith("/") else which)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    place = Folder(theirs)
    with pytest.raises(TrackbedError, match="must not be a link"):
        if which == "incoming":
            place.begin()
        place.write(path, b"* * * * * root id")
    assert [(entry.name, entry.read_bytes()) for entry in victim.iterdir()] == [("passwd", b"kept")]
    if which == "incoming":
        with pytest.raises(TrackbedError, match="must not be a link"):
            place.write(path, b"x")


def test_a_repository_that_is_a_link_and_lacks_its_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "repo").symlink_to("disk")
    place = Folder(tmp_path / "repo")
    place.write("copies/abc", b"x")  # as a repair does
    place.write("checked.json", b"{}")
    place.sync()
    assert place.read("copies/abc", 9) == b"x" and not list((tmp_path / "disk/incoming").iterdir())


def test_a_copy_for_which_no_name_is_free_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a clock that was set back for a while."""

    class Every:
        def __contains__(self, name: str) -> bool:
            return True

    monkeypatch.setattr(repository_writer, "names", lambda blobs: Every())
    monkeypatch.setattr(repository_writer, "NAME_SECONDS", 0.2)
    writer: Any = object.__new__(Writer)
    writer._blobs, writer._project = None, "lab"
    with pytest.raises(TrackbedError, match="clock"):
        writer._free_name()
