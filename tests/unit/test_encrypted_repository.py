"""An encrypted repository: works as a plain one does, tells nothing, and notices whatever somebody else does to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from helpers import console, status
from helpers.backups import (
    create,
    damage,
    encrypted,
    formats,
    in_cluster,
    last_seen,
    locations,
    manage,
    passphrase,
    prune,
    repository,
    repository_key,
    running,
    salvage,
    schedule,
    scrub,
    verify,
)
from helpers.backups.encrypted import Altered, Encrypted
from helpers.backups.repository import Snapshot
from helpers.backups.retention import Policy
from helpers.backups.storage import BlobStore, Folder
from helpers.errors import SettingError, TrackbedError
from helpers.project.backup_runs import Result
from tests.unit.fakes import Silent, project
from tests.unit.test_prune import Killed, age, killed_at, small, write  # noqa: F401  # `small` is a fixture
from tests.unit.test_prune_events import Objects, at
from tests.unit.test_repository import contents

PHRASE, OTHER = "correct horse battery", "another one entirely"
OBJECTS = {"1/r/secret name": b"secret content " * 300, "1/r/b": b"b" * 10, "1/r/c": b"c" * 2500, "1/r/empty": b""}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_key, "SETTLE", 0.0)
    monkeypatch.setattr(repository_key, "MEMORY", 64)  # the passphrases of tests are no secrets


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return Folder(tmp_path / "repo") if request.param == "folder" else at(Objects())


def vault(place: BlobStore, phrase: str = PHRASE) -> Encrypted:
    result = encrypted.opened(place, phrase, make=True)
    assert isinstance(result, Encrypted)
    return result


def paths(place: BlobStore, below: str = "") -> list[str]:
    return [blob.path for blob in place.listed(below)]


def raw(place: BlobStore, path: str) -> bytes:
    return place.read(path, 2**30)


def flip(place: BlobStore, path: str, at: int = -5) -> None:
    content = bytearray(raw(place, path))
    content[at] ^= 1
    place.write(path, bytes(content))


def objects(snapshot: Snapshot) -> dict[str, bytes]:
    found = contents(snapshot)
    return {name.removeprefix("objects/"): content for name, content in found.items() if name.startswith("objects/")}


# what it does


def test_a_backup_comes_back_as_it_was(place: BlobStore) -> None:
    first = write(vault(place), OBJECTS)
    second = write(vault(place), {**OBJECTS, "2/new": b"new"})
    assert second.manifest()["unchanged_objects"] == 4 and second.manifest()["new_pieces"] < 6
    store = encrypted.opened(place, PHRASE)
    assert objects(Snapshot(store, first.name)) == OBJECTS
    assert objects(Snapshot(store, second.name)) == {**OBJECTS, "2/new": b"new"}
    result = damage.examine(store, repository.names(store))
    assert result.ok and not result.unknown and result.unused == (0, 0)
    assert scrub.read_share(store).wrong == {}


def test_nothing_in_it_tells_what_it_holds(place: BlobStore) -> None:
    store = vault(place)
    write(store, OBJECTS)
    scrub.save_position(store, scrub.ScrubResult(position="ab" * 32), set())
    plain = {
        hashlib.sha256(content[n : n + 1000]).hexdigest() for content in OBJECTS.values() for n in range(0, 5000, 1000)
    }
    everything = b"".join(path.encode() + raw(place, path) for path in paths(place))
    for word in (
        b"secret",
        b"c" * 20,
        b"PGDMP",
        b"objects",
        b"schema",
        b"after",
        PHRASE.encode(),
        *map(str.encode, plain),
    ):
        assert word not in everything
    assert base64.b64encode(b"secret content")[:-4] not in everything


def test_the_same_content_has_other_names_and_other_bytes_elsewhere(tmp_path: Path) -> None:
    one, other = vault(Folder(tmp_path / "one")), vault(Folder(tmp_path / "other"))
    assert one.digest(b"x") == one.digest(b"x") != other.digest(b"x")
    one.write("pieces/a", b"x")
    first = raw(one.inner, "pieces/a")
    one.write("pieces/a", b"x")
    assert raw(one.inner, "pieces/a") != first and len(first) == 1 + encrypted.OVERHEAD


def test_sizes_are_those_of_the_content(place: BlobStore) -> None:
    store = vault(place)
    store.write("pieces/ab/x", b"12345")
    store.begin()
    assert store.holds("pieces/ab/x", 5) and not store.holds("pieces/ab/x", 33)
    assert [blob.size for blob in store.listed("pieces/")] == [5]


def test_prune_and_what_it_sets_aside(place: BlobStore) -> None:
    store = vault(place)
    write(store, {"1/old": b"old" * 400})
    last = write(store, OBJECTS)
    policy = Policy(last=1)
    gone = prune.prune(store, "p", policy, Silent(), at_once=True)
    assert len(gone.forgotten) == 1
    assert objects(Snapshot(encrypted.opened(place, PHRASE), last.name)) == OBJECTS
    result = damage.examine(store, repository.names(store))
    assert result.ok and result.unused == (0, 0)


def test_a_piece_in_the_trash_is_still_read(place: BlobStore) -> None:
    """As a prune leaves it that was killed before it saw that the piece is needed."""
    store = vault(place)
    snapshot = write(store, OBJECTS)
    for path in paths(store, "pieces/") + paths(store, "copies/"):
        if "keys" not in path:
            store.move(path, f"{repository.trashed(path)}{'a' * 16}")
    assert objects(snapshot) == OBJECTS


def test_repair_from_copies_and_salvage(place: BlobStore) -> None:
    store = vault(place)
    snapshot = write(store, OBJECTS)
    manifest = snapshot.manifest()
    flip(place, f"backups/{snapshot.name}.json")
    flip(place, repository.piece(manifest["list"][0]))
    result = damage.examine(store, [snapshot.name])
    assert len(result.damaged) == 2
    assert len(damage.repair(store, result)) == 2 and damage.examine(store, [snapshot.name]).ok
    entry = next(e for e in snapshot.entries(manifest) if e.object == "1/r/c")
    place.write(repository.piece(entry.pieces[0]), b"short")
    rest = salvage.undamaged(snapshot, None)
    assert rest.left == ("objects/1/r/c",)
    assert {name for name, _, _ in rest.members() if name.startswith("objects/")} == {
        f"objects/{name}" for name in OBJECTS if name != "1/r/c"
    }


def test_a_random_life(tmp_path: Path) -> None:
    """Backups and prunes of a growing project: whatever stays can be read."""
    rng, store = random.Random(7), vault(Folder(tmp_path / "repo"))
    held: dict[str, dict[str, bytes]] = {}
    current = dict[str, bytes]()
    for number in range(12):
        current = {**current, f"1/{number}": rng.randbytes(rng.randrange(3000))}
        if number % 4 == 3:
            current.pop(rng.choice(list(current)))
        held[write(store, current).name] = current
        if number % 3 == 2:
            age(tmp_path / "repo")
            prune.prune(store, "p", Policy(last=3), Silent())
    names = repository.names(store)
    assert 3 <= len(names) < 12
    again = encrypted.opened(Folder(tmp_path / "repo"), PHRASE)
    assert {name: objects(Snapshot(again, name)) for name in names} == {name: held[name] for name in names}


def _killed_at_each(
    begin: Callable[[Path], object], act: Callable[[BlobStore], object], folder: Path
) -> Iterator[Path]:
    """The place after a kill before the first, the second, ... change of ``act``; at last after all of it."""
    number, survived = 0, False
    while not survived:
        number += 1
        target = folder / f"{number}"
        begin(target)
        try:
            act(killed_at(Folder(target), number))
            survived = True
        except Killed:
            pass
        yield target
    assert number > 4


def _nothing(target: Path) -> None:
    target.mkdir()


def test_a_first_backup_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    """The next one takes the key that is there."""
    for target in _killed_at_each(_nothing, lambda store: write(vault(store), OBJECTS), tmp_path):
        again = write(vault(Folder(target)), OBJECTS)
        store = encrypted.opened(Folder(target), PHRASE)
        assert all(objects(Snapshot(store, name)) == OBJECTS for name in {again.name, *repository.names(store)})
        assert (
            Folder(target).names("keys") == Folder(target).names("copies/keys")
            and len(Folder(target).names("keys")) == 1
        )


def test_a_prune_and_a_backup_that_are_killed_at_any_moment(tmp_path: Path) -> None:
    first = vault(Folder(tmp_path / "first"))
    for count in range(2):
        write(first, {"1/same": b"same" * 300, "1/a": b"%d" % count * 1200, "1/gone": b"gone" * 300})
    last = write(first, {"1/same": b"same" * 300})

    def begin(target: Path) -> None:
        shutil.copytree(tmp_path / "first", target)
        age(target)

    def act(store: BlobStore) -> None:
        place = vault(store)
        prune.prune(place, "p", Policy(last=1), Silent(), at_once=True)
        write(place, {"1/gone": b"gone" * 300})

    for target in _killed_at_each(begin, act, tmp_path):
        store = encrypted.opened(Folder(target), PHRASE)
        assert last.name in repository.names(store)
        for name in repository.names(store):
            Snapshot(store, name).verify()


def test_a_new_passphrase_that_is_killed_at_any_moment(tmp_path: Path) -> None:
    write(vault(Folder(tmp_path / "first")), OBJECTS)

    def change(store: BlobStore) -> None:
        place = vault(store)
        encrypted.change_passphrase(place, OTHER)
        write(place, OBJECTS)

    for target in _killed_at_each(lambda target: shutil.copytree(tmp_path / "first", target), change, tmp_path):
        opens = [phrase for phrase in (PHRASE, OTHER) if _opens(target, phrase)]
        assert opens
        place = encrypted.opened(Folder(target), opens[0])
        assert objects(Snapshot(place, repository.names(place)[0])) == OBJECTS
        encrypted.change_passphrase(place, OTHER)
        assert not _opens(target, PHRASE) and _opens(target, OTHER)


def _opens(target: Path, phrase: str) -> bool:
    try:
        return bool(encrypted.opened(Folder(target), phrase))
    except repository_key.WrongPassphrase:
        return False


# the passphrase


def test_a_wrong_passphrase_is_told_at_once(place: BlobStore) -> None:
    write(vault(place), OBJECTS)
    with pytest.raises(repository_key.WrongPassphrase, match="another passphrase") as error:
        encrypted.opened(place, OTHER)
    assert "BACKUP_PASSPHRASE" in error.value.message and ".env" in error.value.hint
    with pytest.raises(TrackbedError, match="is encrypted") as missing:
        encrypted.opened(place, "")
    assert "BACKUP_PASSPHRASE" in missing.value.hint


def test_an_umlaut_is_the_same_from_any_keyboard(place: BlobStore) -> None:
    key = vault(place, "M\u00fcller und S\u00f6hne").key
    assert vault(place, "Mu\u0308ller und So\u0308hne").key == key


def test_a_new_passphrase_rewrites_no_piece(place: BlobStore) -> None:
    store = vault(place)
    snapshot = write(store, OBJECTS)
    before = {path: raw(place, path) for path in paths(place) if "keys/" not in path}
    repository_key.write(place, store.key, OTHER)
    assert {path: raw(place, path) for path in paths(place) if "keys/" not in path} == before
    with pytest.raises(repository_key.WrongPassphrase):
        encrypted.opened(place, PHRASE)
    assert objects(Snapshot(encrypted.opened(place, OTHER), snapshot.name)) == OBJECTS


def test_a_change_that_was_killed_leaves_a_place_that_opens(place: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = vault(place)
    real = place.write

    def die(path: str, content: bytes | bytearray) -> None:
        if path.startswith("keys/"):
            raise KeyboardInterrupt
        real(path, content)

    monkeypatch.setattr(place, "write", die)
    with pytest.raises(KeyboardInterrupt):
        repository_key.write(place, store.key, OTHER)
    monkeypatch.undo()
    monkeypatch.setattr(repository_key, "MEMORY", 64)
    assert encrypted.opened(place, PHRASE, make=True) and encrypted.opened(place, OTHER)
    repository_key.write(place, store.key, OTHER)
    with pytest.raises(repository_key.WrongPassphrase):
        encrypted.opened(place, PHRASE)


@pytest.mark.parametrize("harm", ["remove", "flip", "empty"])
@pytest.mark.parametrize("which", ["keys", "copies/keys"])
def test_one_damaged_key_file_is_read_around_and_written_again(place: BlobStore, harm: str, which: str) -> None:
    key = vault(place).key
    path = f"{which}/{key.id}.json"
    whole = raw(place, path)
    if harm == "remove":
        place.remove(path)
    else:
        place.write(path, b"" if harm == "empty" else whole[:-9])
    read_only = encrypted.opened(place, PHRASE)
    assert isinstance(read_only, Encrypted) and read_only.key == key
    assert vault(place).key == key and raw(place, path) == whole


@pytest.mark.parametrize("which", ["keys", "copies/keys"])
def test_a_key_file_with_one_wrong_byte_is_written_again(
    place: BlobStore, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks like one of another passphrase, which a change on another machine may have written just now."""
    store = vault(place)
    path = f"{which}/{store.key.id}.json"
    content = json.loads(raw(place, path))
    content["salt"] = base64.b64encode(b"x" * 16).decode()
    place.write(path, json.dumps(content).encode())
    assert list(encrypted.damaged_keys(vault(place))) == [f"keys/{store.key.id}.json"]  # not yet
    monkeypatch.setattr(repository_key, "OLD", -60.0)  # a day later
    assert encrypted.damaged_keys(vault(place)) == {}
    assert raw(place, path) == raw(place, f"{'copies/keys' if which == 'keys' else 'keys'}/{store.key.id}.json")


def test_without_any_key_file_it_is_neither_plain_nor_new(place: BlobStore) -> None:
    store = vault(place)
    write(store, OBJECTS)
    for folder in ("keys", "copies/keys"):
        place.remove(f"{folder}/{store.key.id}.json")
    for phrase in ("", PHRASE):
        for make in (False, True):
            with pytest.raises(TrackbedError, match="its key is missing"):
                encrypted.opened(place, phrase, make)
    with pytest.raises(TrackbedError, match="is encrypted, and the key of its place is missing"):
        Snapshot(place, repository.names(place)[0]).manifest()
    for folder in ("keys", "copies/keys"):
        place.write(f"{folder}/{store.key.id}.json", b"{}")
    with pytest.raises(TrackbedError, match="both files of its key"):
        encrypted.opened(place, PHRASE)


def test_threads_derive_their_keys_one_after_the_other() -> None:
    numbers = {"iterations": 1, "lanes": 4, "memory": 64}
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda n: repository_key._of_passphrase(f"{n}", b"s" * 16, **numbers), range(200)))
    assert len(set(keys)) == 200


def test_two_first_backups_take_one_key(place: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has written its key before it looks."""
    keys = list[repository_key.Key]()

    def other(_: float) -> None:
        monkeypatch.setattr(time, "sleep", lambda _: None)
        keys.append(repository_key.make(place, PHRASE))

    monkeypatch.setattr(time, "sleep", other)
    keys.append(repository_key.make(place, PHRASE))
    assert keys[0] == keys[1] and place.names("keys") == [f"{keys[0].id}.json"] == place.names("copies/keys")


@pytest.mark.parametrize(
    "numbers", [{"memory": 2**31}, {"iterations": 10**6}, {"lanes": 0}, {"memory": 8}, {"lanes": "4"}]
)
def test_a_key_file_of_somebody_else_costs_no_memory_and_no_time(place: BlobStore, numbers: dict[str, Any]) -> None:
    key = vault(place).key
    facts = json.loads(raw(place, f"keys/{key.id}.json")) | numbers
    with pytest.raises(ValueError):
        repository_key.unwrapped(json.dumps(facts).encode(), PHRASE)
    place.write(f"keys/{'0' * 32}.json", json.dumps(facts).encode())
    assert vault(place).key == key


def test_a_key_file_of_a_newer_version(place: BlobStore) -> None:
    key = vault(place).key
    for folder in ("keys", "copies/keys"):
        facts = json.loads(raw(place, f"{folder}/{key.id}.json"))
        place.write(f"{folder}/{key.id}.json", json.dumps(facts | {"encryption": 2}).encode())
    with pytest.raises(TrackbedError, match="by a newer Trackbed") as error:
        encrypted.opened(place, PHRASE)
    assert "git pull" in error.value.hint


def test_numbers_and_names_of_a_key_file_are_bound_to_it(place: BlobStore) -> None:
    key = vault(place).key
    facts = json.loads(raw(place, f"keys/{key.id}.json"))
    assert repository_key.unwrapped(json.dumps(facts).encode(), PHRASE) == key
    for change in ({"id": "0" * 32}, {"iterations": 4}):
        assert repository_key.unwrapped(json.dumps(facts | change).encode(), PHRASE) is None


# somebody who can write there


def _attacked(place: BlobStore) -> tuple[Encrypted, Snapshot, Snapshot]:
    store = vault(place)
    return (
        store,
        write(store, {"1/a": b"old" * 400, "1/same": b"s" * 50}),
        write(store, {"1/a": b"new" * 400, "1/same": b"s" * 50}),
    )


def _entry(snapshot: Snapshot, name: str) -> str:
    (entry,) = [e for e in snapshot.entries(snapshot.manifest()) if e.object == name]
    return repository.piece(entry.pieces[0])


def test_every_byte_counts(place: BlobStore) -> None:
    store, _, last = _attacked(place)
    for path in [*paths(place, "pieces/"), f"backups/{last.name}.json"]:
        whole = raw(place, path)
        for content in (whole[:-1], whole[1:], whole + b"x", b"", whole[:12] + bytes([whole[12] ^ 1]) + whole[13:]):
            place.write(path, content)
            with pytest.raises((Altered, TrackbedError)):
                store.read(path, 2**20)
        place.write(path, whole)
    assert damage.examine(store, repository.names(store)).ok


@pytest.mark.parametrize("of", ["pieces", "backups", "copies"])
def test_one_blob_in_the_place_of_another_is_noticed(place: BlobStore, of: str) -> None:
    store, first, last = _attacked(place)
    swap = {
        "pieces": (_entry(first, "1/a"), _entry(last, "1/a")),
        "backups": (f"backups/{first.name}.json", f"backups/{last.name}.json"),
        "copies": (f"copies/{first.name}.json", f"copies/{last.name}.json"),
    }[of]
    place.write(swap[1], raw(place, swap[0]))
    with pytest.raises(Altered, match="not written with the key"):
        store.read(swap[1], 2**20)
    result = damage.examine(store, [last.name])
    assert not result.ok and swap[1] in result.damaged
    with pytest.raises(TrackbedError):
        Snapshot(store, last.name).manifest_at(swap[1]) if of != "pieces" else last.verify()


def test_an_older_backup_under_a_newer_name_is_none(place: BlobStore) -> None:
    store, first, _ = _attacked(place)
    new = "trackbed-p-20991231T000000Z"
    for top in ("backups", "copies"):
        place.write(f"{top}/{new}.json", raw(place, f"{top}/{first.name}.json"))
    with pytest.raises(Altered):
        Snapshot(store, new).manifest()
    with pytest.raises(TrackbedError, match="nothing is deleted"):
        prune.prune(store, "p", Policy(last=1), Silent())


def test_a_plain_backup_that_somebody_puts_there_is_none(place: BlobStore, tmp_path: Path) -> None:
    store, _, last = _attacked(place)
    foreign = write(Folder(tmp_path / "foreign"), {"1/a": b"evil"})
    for path in paths(foreign.store):
        if path.startswith(("pieces/", "backups/", "copies/")):
            place.write(path, raw(foreign.store, path))
    place.move(f"backups/{foreign.name}.json", "backups/trackbed-p-20991231T000000Z.json")
    with pytest.raises(Altered):
        Snapshot(store, "trackbed-p-20991231T000000Z").manifest()
    assert objects(last)["1/a"] == b"new" * 400


def test_what_an_earlier_version_leaves_there_is_told_and_hurts_nothing(tmp_path: Path) -> None:
    """It knows no passphrase, and writes its backup in plain."""
    lab = project(tmp_path / "state")
    lab = replace(lab, settings=lab.settings.reload({}, backup_passphrase=PHRASE))
    store = locations.target(lab.settings, f"{tmp_path}/repo/")
    assert isinstance(store, Encrypted)
    first = write(store, OBJECTS)
    earlier = write(store.inner, {**OBJECTS, "1/plain": b"plain" * 100})
    last = write(store, OBJECTS)
    assert objects(first) == objects(last) == OBJECTS
    problems = [row.problem for row in manage.listing(lab, f"{tmp_path}/repo")]
    assert not problems[0] and "is not encrypted, in a place that is" in problems[1] and not problems[2]
    result = damage.examine(store, repository.names(store))
    assert not result.ok and set(result.unrestorable) == {earlier.name} and not result.damaged
    with pytest.raises(TrackbedError, match="nothing is deleted") as caught:
        prune.prune(store, "p", Policy(last=1), Silent(), at_once=True)
    assert f"delete {store}/backups/{earlier.name}.json" in caught.value.hint
    for path in (f"backups/{earlier.name}.json", f"copies/{earlier.name}.json"):
        with pytest.raises(TrackbedError) as refused:
            store.read(path, 2**20)
        assert f"delete {store}/backups/{earlier.name}.json" in refused.value.hint  # its copy goes with it
        assert "`invoke" not in refused.value.hint  # a prune without a policy is refused, and nobody knows theirs
    store.remove(f"backups/{earlier.name}.json")
    gone = prune.prune(store, "p", Policy(last=1), Silent(), at_once=True)
    assert gone.forgotten == [first.name] and objects(last) == OBJECTS
    result = damage.examine(store, repository.names(store))
    assert result.ok and result.unused == (0, 0)


def test_a_plain_place_in_the_place_of_the_encrypted_one_is_refused(tmp_path: Path) -> None:
    """Else a restore would take what anybody has put there, and a backup would be written for anybody to read."""
    write(Folder(tmp_path / "repo"), {"1/a": b"evil"})
    for make in (False, True):
        with pytest.raises(TrackbedError, match="is not encrypted") as error:
            encrypted.opened(Folder(tmp_path / "repo"), PHRASE, make)
        assert "name a new place" in error.value.hint
    assert isinstance(encrypted.opened(Folder(tmp_path / "repo"), "", make=True), Folder)


def test_a_store_that_shows_plain_backups_only_at_the_second_look(tmp_path: Path) -> None:
    """It hides all of the place while that is opened, and then shows backups of its own."""
    repo = Folder(tmp_path / "repo")
    looked = encrypted.opened(repo, PHRASE)
    foreign = write(repo, {"1/a": b"evil"})
    assert repository.names(looked) == [foreign.name] and foreign.manifest()
    with pytest.raises(Altered):
        Snapshot(looked, foreign.name).manifest()
    assert not repository_key.is_encrypted(repo)


def test_key_files_that_somebody_removes_at_once_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "repo"
    monkeypatch.setattr(time, "sleep", lambda _: shutil.rmtree(repo))
    with pytest.raises(TrackbedError, match="removed the moment they were written"):
        vault(Folder(repo))


def test_an_older_state_of_all_of_it_is_told_where_the_newer_one_was_made(tmp_path: Path) -> None:
    folder = project(tmp_path / "state").settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    repo = tmp_path / "repo"
    write(vault(Folder(repo)), {"1/a": b"old"})
    shutil.copytree(repo, tmp_path / "aside")
    last = write(vault(Folder(repo)), {"1/a": b"new"})
    store = vault(Folder(repo))
    last_seen.remember(folder, store, last.name)
    assert last_seen.missing(folder, store) == ""
    shutil.rmtree(repo)
    shutil.move(tmp_path / "aside", repo)
    line = last_seen.missing(folder, vault(Folder(repo)))
    assert last.name in line and "put an older state back" in line
    assert (folder / last_seen.FILE).stat().st_mode & 0o777 == 0o600
    shutil.rmtree(repo)  # all of it, the key too
    assert last.name in last_seen.missing(folder, vault(Folder(repo)))
    assert last_seen.missing(folder, Folder(repo)) == "" and last_seen.missing(tmp_path, store) == ""


def test_flags_and_marks_that_somebody_forges_delete_nothing(place: BlobStore) -> None:
    store, _, last = _attacked(place)
    place.write(f"running/{'a' * 32}", json.dumps({"began": 1e18}).encode())
    assert list(running.backups(store, running.time_of(store))) == [0.0]  # waited for
    place.write("checked.json", json.dumps({"after": "", "wrong": ["a" * 64]}).encode())
    assert scrub.damaged(store) == []
    assert objects(last)


def test_an_earlier_version_says_that_it_is_of_a_newer_one(place: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the manifest as it is there, and knows the format's number alone."""
    store, _, last = _attacked(place)
    text = json.loads(raw(place, f"backups/{last.name}.json"))
    assert text["format"] == formats.ENCRYPTED > formats.FORMAT and set(text) == {"format", "encrypted"}
    monkeypatch.setattr(formats, "ENCRYPTED", -1)
    with pytest.raises(formats.Newer, match="made by a newer Trackbed"):
        Snapshot(place, last.name).manifest()
    with pytest.raises(formats.Newer):
        prune.prune(place, "p", Policy(last=1), Silent())


# settings, and what is typed


def _settings(tmp_path: Path, phrase: str = PHRASE) -> Any:
    return replace(project(tmp_path / "state").settings.reload({}, backup_passphrase=phrase))


def test_places_are_opened_with_the_passphrase_of_the_settings(tmp_path: Path) -> None:
    settings, repo = _settings(tmp_path), tmp_path / "repo"
    made = locations.target(settings, f"{repo}/")
    assert isinstance(made, Encrypted) and encrypted.lines(made)[1].startswith("without this passphrase nobody")
    snapshot = write(made, OBJECTS, name="trackbed")
    assert encrypted.lines(made) == []
    source = locations.source(settings, str(repo))
    assert isinstance(source, Snapshot) and source.name == snapshot.name and objects(source) == OBJECTS
    assert objects(locations.source(settings, str(source))) == OBJECTS  # type: ignore[arg-type]
    chosen = locations.matching(settings, str(repo))
    assert isinstance(chosen, tuple) and isinstance(chosen[0], Encrypted)
    for text in (str(repo), str(source)):
        for phrase, expected in (("", "is encrypted"), (OTHER, "another passphrase")):
            for call in (locations.source, locations.matching):
                with pytest.raises(TrackbedError, match=expected):
                    call(_settings(tmp_path, phrase), text)


def test_a_file_with_the_name_of_a_backup_is_no_archive(tmp_path: Path) -> None:
    """Whoever can write to the folder could have it restored, as it is not encrypted."""
    settings, repo = _settings(tmp_path), tmp_path / "repo"
    snapshot = write(locations.target(settings, f"{repo}/"), OBJECTS, name="trackbed")  # type: ignore[arg-type]
    (repo / snapshot.name).write_bytes(b"an archive of somebody else")
    source = locations.source(settings, f"{repo}/{snapshot.name}")
    assert isinstance(source, Snapshot) and source.name == snapshot.name
    other = repo / "trackbed-trackbed-20990101T000000Z"
    other.write_bytes(b"an archive of somebody else")
    with pytest.raises(TrackbedError, match="no backup found"):
        locations.source(settings, str(other))
    archive = repo / "trackbed-trackbed-20990101T000000Z.tar"
    archive.write_bytes(b"the user's own")
    assert locations.source(settings, str(archive)) == archive


def test_looking_at_an_empty_place_makes_no_key(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrackbedError, match="no backup found"):
        locations.source(_settings(tmp_path), f"{tmp_path}/empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_listing_tells_a_damaged_manifest_and_goes_on(tmp_path: Path) -> None:
    lab = project(tmp_path / "state")
    lab = replace(lab, settings=lab.settings.reload({}, backup_passphrase=PHRASE))
    store = locations.target(lab.settings, f"{tmp_path}/repo/")
    assert isinstance(store, Encrypted)
    first, last = write(store, OBJECTS), write(store, OBJECTS)
    for top in ("backups", "copies"):
        flip(store.inner, f"{top}/{first.name}.json")
    rows = manage.listing(lab, f"{tmp_path}/repo")
    assert [bool(row.problem) for row in rows] == [True, False] and rows[1].backup == str(last)


def test_a_schedule_takes_no_passphrase_from_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKBED_BACKUP_PASSPHRASE", PHRASE)
    settings = project(tmp_path / "state").settings.reload({}, backup_to=f"{tmp_path}/repo/")
    with pytest.raises(SettingError, match="BACKUP_PASSPHRASE is in this shell's environment"):
        schedule._place(settings, False)
    assert not (tmp_path / "repo").exists()


@pytest.mark.parametrize(
    ("raw", "right"), [("short", False), ("x" * 513, False), ("a b\tc d e f g", False), ("ünter uns gesagt", True)]
)
def test_what_may_be_a_passphrase(tmp_path: Path, raw: str, right: bool) -> None:
    def load() -> Any:
        return project(tmp_path).settings.reload({}, backup_passphrase=raw)

    if right:
        assert load().backup_passphrase == raw and raw not in repr(load())
        return
    with pytest.raises(SettingError, match="12 to 512") as error:
        load()
    assert raw not in str(error.value)


def test_another_passphrase_by_the_task(tmp_path: Path) -> None:
    lab = project(tmp_path / "state")
    lab = replace(lab, settings=lab.settings.reload({}, backup_passphrase=PHRASE))
    place = f"{tmp_path}/repo"
    with pytest.raises(TrackbedError, match="is not encrypted"):
        passphrase.change(lab, place, lambda _: OTHER)
    snapshot = write(vault(Folder(tmp_path / "repo")), OBJECTS)
    for wrong, expected in (("", "no new passphrase"), ("short", "12 to 512")):
        with pytest.raises(TrackbedError, match=expected) as error:
            passphrase.change(lab, place, lambda _, given=wrong: given)  # type: ignore[misc]
        assert not wrong or wrong not in str(error.value)
    assert encrypted.opened(Folder(tmp_path / "repo"), PHRASE)
    asked = list[str]()

    def ask(question: str) -> str:
        asked.append(question)
        return OTHER

    assert passphrase.change(lab, f"{place}/", ask) == place
    assert asked == [f"New passphrase of {place}: "]
    with pytest.raises(repository_key.WrongPassphrase):
        passphrase.change(lab, place, lambda _: OTHER)
    assert objects(Snapshot(encrypted.opened(Folder(tmp_path / "repo"), OTHER), snapshot.name)) == OBJECTS
    with pytest.raises(SettingError, match="PLACE is missing"):
        passphrase.change(lab, "", lambda _: OTHER)


def test_a_new_secret_is_typed_twice_or_read_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{OTHER}\nmore\n"))
    assert console.new_secret("? ") == OTHER
    monkeypatch.setattr(console, "can_ask", lambda: True)
    typed = [OTHER, OTHER, OTHER, PHRASE]
    monkeypatch.setattr(console, "ask_secret", lambda question: typed.pop(0))
    assert console.new_secret("? ") == OTHER
    with pytest.raises(TrackbedError, match="the two differ"):
        console.new_secret("? ")


def test_secrets_go_into_a_bucket_only_where_it_is_encrypted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, reached = project(tmp_path / "state"), TrackbedError("reached")

    def running(_: Any) -> None:
        raise reached

    monkeypatch.setattr(status, "running", running)
    monkeypatch.setattr(locations, "target", lambda settings, to: vault(at(Objects())))
    for phrase, expected in (("", "not put into a bucket in plain text"), (PHRASE, "reached")):
        asked = replace(lab, settings=lab.settings.reload({}, backup_passphrase=phrase))
        with pytest.raises(TrackbedError, match=expected):
            create.create(asked, "s3://bucket/x", True, Silent(), lambda line: None)


def test_a_pod_of_a_schedule_encrypts_with_what_its_secret_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects_there, seen = Objects(), list[Any]()
    plan = {
        "environment": {},
        "schedule": {"place": "s3://bucket"},
        "last_place": "s3://bucket",
        "access": {"endpoint": "", "region": "", "key": "k", "secret": "s"},
    }
    monkeypatch.setattr(in_cluster, "GIVEN", tmp_path)
    monkeypatch.setattr(in_cluster, "MESSAGE", tmp_path / "message")
    monkeypatch.setattr(in_cluster, "Bucket", lambda place, access: at(objects_there))

    def ran(plan: Any, environ: Any, store: Any, now: float, *_: Any) -> Result:
        seen.append(store)
        write(store, OBJECTS)
        return Result("done", now)

    monkeypatch.setattr(in_cluster, "run", ran)
    for phrase, code in ((PHRASE, 0), (PHRASE, 0), (OTHER, 1), ("", 1)):
        (tmp_path / in_cluster.PLAN).write_text(json.dumps({**plan, "passphrase": phrase}))
        assert in_cluster.main() == code
        told = (tmp_path / "message").read_text()
        assert (phrase or "x" * 99) not in told and ("encrypted" in told) == bool(code)
    assert len(seen) == 2 and all(isinstance(store, Encrypted) for store in seen)
    assert len(repository.names(encrypted.opened(at(objects_there), PHRASE))) == 2


@pytest.mark.parametrize("which", ["keys", "copies/keys"])
def test_verify_names_a_damaged_key_file_and_repairs_it(tmp_path: Path, which: str) -> None:
    lab, place = project(tmp_path / "state"), Folder(tmp_path / "repo")
    lab = replace(lab, settings=lab.settings.reload({}, backup_passphrase=PHRASE))
    store = vault(place)
    write(store, OBJECTS)
    path = f"{which}/{store.key.id}.json"
    place.write(path, b"{}")

    def verified(repair: bool) -> verify.Verified:
        return verify.verify(lab, f"{tmp_path}/repo", repair, Silent(), lambda line: None)

    found = verified(False)
    assert not found.ok and found.repairable and any(path in line and "damaged" in line for line in found.lines)
    found = verified(True)
    assert found.ok and found.lines == (f"repaired from its copy: {path}",)
    assert verified(False).ok and not verified(False).lines


def test_the_format_is_as_docs_backup_tells(tmp_path: Path) -> None:
    """Read with the library alone: somebody without Trackbed gets their data back."""
    place = Folder(tmp_path / "repo")
    snapshot = write(vault(place, "Mu\u0308ller und Sohn"), OBJECTS)
    (name,) = place.names("keys")
    facts = json.loads(raw(place, f"keys/{name}"))
    sealed, salt = base64.b64decode(facts.pop("key")), base64.b64decode(facts["salt"])
    numbers = {"iterations": facts["iterations"], "lanes": facts["lanes"], "memory_cost": facts["memory"]}
    wrapping = Argon2id(salt=salt, length=32, **numbers).derive("M\u00fcller und Sohn".encode())
    bound = json.dumps(facts, sort_keys=True).encode()
    secret = AESGCM(wrapping).decrypt(sealed[:12], sealed[12:], bound)

    def derived(use: str, length: int = 32) -> bytes:
        return HKDF(SHA256(), length, salt=None, info=f"trackbed backup {use}".encode()).derive(secret)

    def content(path: str, blob: bytes) -> bytes:
        return AESGCM(derived("content")).decrypt(blob[:12], blob[12:], f"trackbed 1 {path}".encode())

    def piece(digest: str) -> bytes:
        path = f"pieces/{digest[:2]}/{digest}"
        result = content(path, raw(place, path))
        assert hmac.digest(derived("naming"), hashlib.sha256(result).digest(), "sha256").hex() == digest
        return result

    assert name == f"{derived('id', 16).hex()}.json"
    path = f"backups/{snapshot.name}.json"
    outer = json.loads(raw(place, path))
    manifest = json.loads(content(path, base64.b64decode(outer["encrypted"])))
    listed = [json.loads(line) for line in b"".join(map(piece, manifest["list"])).splitlines()]
    found = {line[0]: b"".join(map(piece, line[4])) for line in listed if line[0].startswith("objects/")}
    assert found == {f"objects/{name}": content for name, content in OBJECTS.items()} and outer["format"] == 3
