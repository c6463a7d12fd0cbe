"""Damage in a repository is found, named by backup, run and artifact, and repaired where the content is still there."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from helpers.backups import damage, repository, scrub
from helpers.backups.repository import Snapshot
from helpers.backups.repository_writer import Writer
from helpers.backups.storage import Folder, Unreadable
from helpers.errors import TrackbedError
from tests.conftest import PATIENCE
from tests.unit.test_repository import DUMP, FACTS, HARM, Reads, crafted, piece, sha

RUN = "0" * 31 + "1"
OBJECTS = {f"1/{RUN}/artifacts/model/a.bin": b"a" * 2500, f"1/models/m-{RUN}/artifacts/b": b"hello", "1/odd": b"other"}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "PIECE", 1000)


def back_up(
    folder: Path,
    store: Reads,
    lost: set[str] | None = None,
    dump: bytes = DUMP,
    later: Future[set[str]] | None = None,
    found: set[str] | None = None,
) -> tuple[Snapshot, Writer]:
    """``found``: what ``later`` gives, once the dump is stored."""
    place = Folder(folder)
    with Writer(place, "p", {"made": "2026-01-01T00:00:00+00:00"}, "here", lost or (), later) as writer:
        writer.small("settings.json", b"{}")
        writer.database(io.BytesIO(dump))
        if later is not None:
            later.set_result(found or set())
        store.into(writer)
        name, _ = writer.finish(FACTS)
    return Snapshot(place, name), writer


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    return back_up(tmp_path / "repo", Reads(OBJECTS))[0]


def examine(snapshot: Snapshot) -> damage.DamageReport:
    return damage.examine(snapshot.store, repository.names(snapshot.store))


def lines(snapshot: Snapshot) -> str:
    return "\n".join(damage.report(snapshot.store, examine(snapshot)))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swapped(path: Path) -> None:
    """Another piece, whole in itself, under this name."""
    path.write_bytes(b"other")


def test_a_whole_one_is_well(snapshot: Snapshot) -> None:
    result = examine(snapshot)
    assert result.ok and result.restorable == [snapshot.name] and not damage.report(snapshot.store, result)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("harm", [flip, swapped, *HARM], ids=lambda harm: harm.__name__)
def test_harm_is_named_by_run_and_artifact(tmp_path: Path, snapshot: Snapshot, harm: Callable[[Path], None]) -> None:
    later, _ = back_up(tmp_path / "repo", Reads({"1/odd": b"other"}), dump=b"PGDMP2")
    harm(piece(snapshot, b"a" * 500))
    result = examine(snapshot)
    assert not result.ok and not result.unrestorable and result.restorable == [later.name]
    text = lines(snapshot)
    assert f"{snapshot.name}: 1 file damaged; `invoke restore {snapshot} --skip-damaged`" in text
    assert f"experiment 1, run {RUN}: 'model/a.bin'" in text and later.name not in text
    assert f"pieces/{sha(b'a' * 500)[:2]}/{sha(b'a' * 500)} is " in text


def test_without_permission_it_is_said(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, read = repository.piece(sha(b"hello")), Folder.read

    def refused(self: Folder, path: str, most: int) -> bytes:
        if path == wrong:
            raise Unreadable("Permission denied")
        return read(self, path, most)

    monkeypatch.setattr(Folder, "read", refused)
    assert "cannot be read (Permission denied)" in lines(snapshot)
    assert f"experiment 1, model m-{RUN}: 'b'" in lines(snapshot)


def test_a_damaged_dump_loses_that_backup_alone(tmp_path: Path, snapshot: Snapshot) -> None:
    later, _ = back_up(tmp_path / "repo", Reads(OBJECTS), dump=b"PGDMP2")
    flip(piece(snapshot, DUMP[:1000]))
    result = examine(snapshot)
    assert list(result.unrestorable) == [snapshot.name] and result.restorable == [later.name]
    assert "cannot be restored: its database dump is damaged" in lines(snapshot)


@pytest.mark.parametrize("which", ["list", "list copy", "manifest", "manifest copy"])
def test_manifest_and_list_are_mended_from_their_copies(snapshot: Snapshot, which: str) -> None:
    place, digest = Path(str(snapshot.store)), snapshot.manifest()["list"][0]
    path = {
        "list": place / repository.piece(digest),
        "list copy": place / "copies" / digest,
        "manifest": place / "backups" / f"{snapshot.name}.json",
        "manifest copy": place / "copies" / f"{snapshot.name}.json",
    }[which]
    content = path.read_bytes()
    flip(path)
    result = examine(snapshot)
    assert list(result.damaged) == [str(path.relative_to(place))] and not result.unrestorable and not result.affected
    assert damage.repair(snapshot.store, result) == [str(path.relative_to(place))]
    assert path.read_bytes() == content and examine(snapshot).ok


def test_both_copies_damaged_is_the_end_of_that_backup(snapshot: Snapshot) -> None:
    for top in ("backups", "copies"):
        flip(Path(str(snapshot.store), top, f"{snapshot.name}.json"))
    result = examine(snapshot)
    assert list(result.unrestorable) == [snapshot.name] and not damage.repair(snapshot.store, result)


def test_older_backups_without_copies_are_well(snapshot: Snapshot) -> None:
    manifest = snapshot.manifest()
    del manifest["copies"]
    Path(str(snapshot)).write_bytes(repository.rendered(manifest))
    shutil.rmtree(Path(str(snapshot.store), "copies"))
    assert examine(snapshot).ok


def test_other_files_are_named_and_no_damage(snapshot: Snapshot) -> None:
    place = Path(str(snapshot.store))
    (place / "pieces" / "ab").mkdir(exist_ok=True)
    (place / "pieces" / "ab" / "mine.txt").write_text("x")
    (place / "notes").write_text("x")
    unused = piece(snapshot, b"nobody's")
    unused.parent.mkdir(exist_ok=True)
    unused.write_bytes(b"nobody's")
    assert examine(snapshot).ok
    text = lines(snapshot)
    assert "pieces/ab/mine.txt: an unknown file" in text and "notes: an unknown file" in text
    assert "1 piece of no backup (8 bytes)" in text


# at each backup


def test_the_next_backup_finds_and_mends_it(tmp_path: Path, snapshot: Snapshot) -> None:
    path = piece(snapshot, b"a" * 500)
    content = path.read_bytes()
    flip(path)
    result = scrub.read_share(snapshot.store)
    assert list(result.wrong) == [sha(content)] and result.count == len(list((tmp_path / "repo/pieces").rglob("*/*")))
    _, writer = back_up(tmp_path / "repo", Reads(OBJECTS), set(result.wrong))
    assert writer.rewritten == writer.lost == {sha(content)}
    assert path.read_bytes() == content and examine(snapshot).ok


def test_what_the_system_has_no_more_stays_known(tmp_path: Path, snapshot: Snapshot) -> None:
    flip(piece(snapshot, b"hello"))
    rest = Reads({"1/odd": b"other"})
    for _ in range(2):
        result = scrub.read_share(snapshot.store)
        assert list(result.wrong) == [sha(b"hello")]
        _, writer = back_up(tmp_path / "repo", rest, set(result.wrong))
        left = writer.lost - writer.rewritten
        assert left == {sha(b"hello")}
        scrub.save_position(snapshot.store, result, left)
    piece(snapshot, b"hello").write_bytes(b"hello")
    assert not scrub.read_share(snapshot.store).wrong


def test_a_dump_is_stored_while_earlier_pieces_are_read(tmp_path: Path, snapshot: Snapshot) -> None:
    _, writer = back_up(tmp_path / "repo", Reads(OBJECTS), later=Future())
    assert writer.unchanged == len(OBJECTS) and not writer.lost and examine(snapshot).ok


@pytest.mark.parametrize("known", [True, False])
def test_until_they_are_read_a_piece_counts_by_its_content_alone(
    tmp_path: Path, snapshot: Snapshot, known: bool
) -> None:
    path = piece(snapshot, DUMP[:1000])
    flip(path)
    found = {path.name} if known else set()
    new, writer = back_up(tmp_path / "repo", Reads(OBJECTS), later=Future(), found=found)
    assert writer.rewritten == writer.lost == {path.name}
    assert new.verify() and examine(snapshot).ok


def test_an_object_waits_for_what_is_found_in_earlier_pieces(tmp_path: Path, snapshot: Snapshot) -> None:
    path = piece(snapshot, b"hello")
    flip(path)
    _, writer = back_up(tmp_path / "repo", Reads(OBJECTS), later=Future(), found={path.name})
    assert writer.rewritten == writer.lost == {path.name} and examine(snapshot).ok


def test_a_piece_that_was_mended_while_it_was_read_is_not_named(tmp_path: Path, snapshot: Snapshot) -> None:
    path = piece(snapshot, DUMP[:1000])
    path.unlink()  # and stored by the time that it is said to be missing
    _, writer = back_up(tmp_path / "repo", Reads(OBJECTS), later=Future(), found={path.name})
    assert writer.rewritten == writer.lost == {path.name} and examine(snapshot).ok


def test_a_backup_that_cannot_tell_what_is_damaged_ends(tmp_path: Path, snapshot: Snapshot) -> None:
    later: Future[set[str]] = Future()
    later.set_exception(TrackbedError("the place does not answer", "try again"))
    with (
        Writer(snapshot.store, "p", {"made": "2026-01-01T00:00:00+00:00"}, "here", (), later) as writer,
        pytest.raises(TrackbedError, match="does not answer"),
    ):
        writer.finish(FACTS)
    assert repository.names(snapshot.store) == [snapshot.name]


def test_a_share_is_read_beside_what_else_is_done(snapshot: Snapshot) -> None:
    digest = snapshot.manifest()["list"][0]
    for path in (Path(str(snapshot.store)) / repository.piece(digest), piece(snapshot, b"hello")):
        flip(path)
    with scrub.share_beside(snapshot.store) as share:
        assert share.lost.result(PATIENCE) == {sha(b"hello")}
    assert share.copied == 1 and set(share.result.wrong) == {digest, sha(b"hello")}


@pytest.mark.parametrize("wrong", [set[str](), {sha(b"hello"), sha(DUMP[:1000])}])
def test_a_share_that_is_given_up_is_read_no_further(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, wrong: set[str]
) -> None:
    """``wrong``: what was damaged the last time, which comes first and may be much."""
    scrub.save_position(snapshot.store, scrub.ScrubResult(), wrong)
    begun, go_on = Event(), Event()
    seen: list[str] = []
    copied: list[str] = []

    def restored(store: object, digest: str) -> bool:
        copied.append(digest)
        return True

    def noted(place: Any, expected: Any) -> Iterator[tuple[str, int, str]]:
        for path, size in expected:
            begun.set()
            assert go_on.wait(PATIENCE)
            seen.append(path)
            yield path, size, "is damaged"

    monkeypatch.setattr(scrub, "read_back", noted)
    monkeypatch.setattr(scrub, "restore_from_copy", restored)

    class GivenUp(Event):
        def set(self) -> None:
            super().set()
            go_on.set()

    monkeypatch.setattr(scrub, "Event", GivenUp)
    with scrub.share_beside(snapshot.store):
        assert begun.wait(PATIENCE)
    assert len(seen) == 1 and not copied


def test_a_missing_piece_is_stored_again(tmp_path: Path, snapshot: Snapshot) -> None:
    piece(snapshot, b"hello").unlink()
    _, writer = back_up(tmp_path / "repo", Reads(OBJECTS))
    assert writer.rewritten == {sha(b"hello")} and examine(snapshot).ok


def test_a_folder_in_a_pieces_place_goes_aside(tmp_path: Path, snapshot: Snapshot) -> None:
    path = piece(snapshot, b"hello")
    path.unlink()
    path.mkdir()
    (path / "mine").touch()
    back_up(tmp_path / "repo", Reads(OBJECTS))
    assert examine(snapshot).ok


def test_a_list_comes_back_from_its_copy(snapshot: Snapshot) -> None:
    digest = snapshot.manifest()["list"][0]
    flip(Path(str(snapshot.store)) / repository.piece(digest))
    assert list(scrub.read_share(snapshot.store).wrong) == [digest]
    assert damage.restore_from_copy(snapshot.store, digest) and examine(snapshot).ok
    assert not damage.restore_from_copy(snapshot.store, sha(b"hello"))  # an object has no copy


def test_an_earlier_backup_that_cannot_be_read_is_told(tmp_path: Path, snapshot: Snapshot) -> None:
    for top in ("backups", "copies"):
        flip(Path(str(snapshot.store), top, f"{snapshot.name}.json"))
    _, writer = back_up(tmp_path / "repo", Reads(OBJECTS))
    assert [snapshot.name in remark for remark in writer.remarks] == [True]
    _, writer = back_up(tmp_path / "repo", Reads(OBJECTS))
    assert not writer.remarks  # the newest one is whole


def test_each_piece_has_its_turn(tmp_path: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "LEAST", 1)
    everything = [path.name for path in (tmp_path / "repo/pieces").rglob("*/*")]
    seen: list[str] = []
    looked = damage.read_back

    def noted(place: Any, expected: Any) -> Iterator[tuple[str, int, str]]:
        for path, size, wrong in looked(place, expected):
            seen.append(path[-64:])
            yield path, size, wrong

    monkeypatch.setattr(scrub, "read_back", noted)
    rounds = 0
    while len(seen) < len(everything):
        result = scrub.read_share(snapshot.store)
        assert 0 < result.count <= len(everything)
        scrub.save_position(snapshot.store, result, set())
        rounds += 1
    assert sorted(set(seen)) == sorted(everything) and rounds > 3
    assert seen[: len(everything)] == sorted(everything)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"after": 1, "wrong": []}',
        b'{"after": "", "wrong": ["../x"]}',
        b'{"after": "../../x", "wrong": []}',
        b"[" * 100_000,
    ],
)
def test_a_round_begins_anew_where_its_place_is_lost(snapshot: Snapshot, text: bytes) -> None:
    Path(str(snapshot.store), scrub.FILE).write_bytes(text)
    assert scrub.read_share(snapshot.store).count > 10


def test_the_same_damaged_line_is_named_in_each_backup(tmp_path: Path, snapshot: Snapshot) -> None:
    """What did not change has the same line in every backup, and is looked at once."""
    second, _ = back_up(tmp_path / "repo", Reads(OBJECTS))
    for one in (snapshot, second):
        crafted(
            one, b"".join(entry.line for entry in one.entries(one.manifest())) + b'["objects/1/x", -1, "", "", []]\n'
        )
    result = damage.examine(snapshot.store, repository.names(snapshot.store))
    assert set(result.unrestorable) == {snapshot.name, second.name}
