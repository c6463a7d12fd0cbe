"""Files that root touches where another account may have been: no link is followed, nothing else changes hands."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import safe_files
from helpers.errors import TrackbedError
from helpers.project import workspace_folder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root gives files away")
OLD, NEW, OTHER = 60001, 60002, 60003


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of root's with a file that only root may read, beside the one under test."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "key").write_text("key\n")
    (tmp_path / "root" / "key").chmod(0o600)
    (tmp_path / "data").mkdir()
    return tmp_path


def owner(path: Path) -> int:
    return path.lstat().st_uid


@as_root
def test_a_tree_changes_hands_and_nothing_that_it_points_to(place: Path) -> None:
    data, key = place / "data", place / "root" / "key"
    (data / "deep" / "er").mkdir(parents=True)
    (data / "deep" / "er" / "file").write_text("x")
    (data / "others").write_text("x")
    for path in (data, *data.rglob("*")):
        os.chown(path, OLD, OLD)
    os.chown(data / "others", OTHER, OTHER)
    (data / "link").symlink_to(key)
    (data / "folder").symlink_to(place / "root")
    os.mkfifo(data / "fifo")
    os.link(key, data / "hard")
    (data / "two").write_text("x")
    os.link(data / "two", data / "names")
    os.chown(data / "two", OLD, OLD)
    given = safe_files.give_folder(data, NEW, NEW, 0o700)
    assert {owner(path) for path in (data, *(data / "deep").rglob("*"), data / "deep")} == {NEW}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert owner(data / "others") == OTHER and owner(data / "two") == OLD
    assert owner(key) == owner(place / "root") == 0 and stat.S_IMODE(key.stat().st_mode) == 0o600
    assert given.changed == 3 and given.left >= 4
    assert safe_files.give_folder(data, NEW, NEW, 0o700) == safe_files.Handover()


@as_root
def test_an_interrupted_walk_is_taken_up_again(place: Path) -> None:
    data = place / "data"
    (data / "a").mkdir()
    (data / "a" / "file").write_text("x")
    for path in (data, data / "a", data / "a" / "file"):
        os.chown(path, OLD, OLD)
    os.chown(data / "a", NEW, NEW)
    safe_files.give_folder(data, NEW, NEW, 0o700)
    assert owner(data / "a" / "file") == NEW


@as_root
def test_a_folder_of_roots_with_entries_is_given_to_nobody(place: Path) -> None:
    with pytest.raises(TrackbedError, match="belongs to root") as caught:
        safe_files.give_folder(place / "root", NEW, NEW, 0o700)
    assert caught.value.hint.startswith("chown -hR")
    assert owner(place / "root") == owner(place / "root" / "key") == 0
    safe_files.give_folder(place / "data", NEW, NEW, 0o700)
    assert owner(place / "data") == NEW, "an empty one was left by an interrupted start"


@as_root
def test_a_tree_deeper_than_any_stack(place: Path) -> None:
    """Ends without an error; what is too deep keeps its owner, and is removed all the same."""
    here = place / "data"
    os.chown(here, OLD, OLD)
    code = "import os\nfor _ in range(1500): os.mkdir('d'); os.chown('d', 60001, 60001); os.chdir('d')"
    subprocess.run([sys.executable, "-c", code], cwd=here, check=True, timeout=60)
    given = safe_files.give_folder(here, NEW, NEW, 0o700)
    assert given.changed >= 300 and given.left >= 1
    assert safe_files.remove(here)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_link_or_a_file_is_no_folder(place: Path, kind: str) -> None:
    path = place / "wanted"
    path.symlink_to(place / "root") if kind == "link" else path.write_text("")
    before = (place / "root").stat()
    for make in (lambda: safe_files.own_folder(path, 0o755), lambda: safe_files.give_folder(path, os.geteuid(), -1, 0)):
        with pytest.raises(TrackbedError, match="link or a file"):
            make()
    assert (place / "root").stat().st_mode == before.st_mode
    assert not safe_files.is_folder(path, os.geteuid())


def test_own_folders_get_their_mode(place: Path) -> None:
    safe_files.own_folder(place / "new", 0o711)
    assert stat.S_IMODE((place / "new").stat().st_mode) == 0o711
    (place / "new").chmod(0o777)
    assert not safe_files.is_folder(place / "new", os.geteuid())
    safe_files.own_folder(place / "new", 0o700)
    assert safe_files.is_folder(place / "new", os.geteuid())


@as_root
def test_another_accounts_folder_is_left_alone(place: Path) -> None:
    os.chown(place / "data", OTHER, OTHER)
    with pytest.raises(TrackbedError, match="belongs to someone else"):
        safe_files.own_folder(place / "data", 0o711)
    assert owner(place / "data") == OTHER and stat.S_IMODE((place / "data").stat().st_mode) != 0o711


def test_writing_replaces_a_link(place: Path) -> None:
    path = place / "data" / "file"
    path.symlink_to(place / "root" / "key")
    assert not safe_files.is_file(path, b"key\n", 0o600, os.geteuid())
    safe_files.write(path, b"new", 0o640)
    assert not path.is_symlink() and path.read_bytes() == b"new"
    assert (place / "root" / "key").read_text() == "key\n"
    assert safe_files.is_file(path, b"new", 0o640, os.geteuid())
    assert not safe_files.is_file(path, b"new", 0o600, os.geteuid())
    assert [entry.name for entry in (place / "data").iterdir()] == ["file"]


def test_removing_a_link_removes_the_link(place: Path) -> None:
    (place / "data" / "link").symlink_to(place / "root")
    (place / "link").symlink_to(place / "root")
    assert safe_files.remove(place / "data") and safe_files.remove(place / "link")
    assert (place / "root" / "key").exists()
    assert safe_files.remove(place / "never was")


def test_who_may_change_a_folder(place: Path) -> None:
    inner = place / "open" / "inner"
    inner.mkdir(parents=True)
    assert safe_files.changeable(inner, {OLD}) is None
    (place / "open").chmod(0o777)
    assert safe_files.changeable(inner, {OLD}) == (place / "open", "everybody")
    (place / "open").chmod(0o1777)
    assert safe_files.changeable(inner / "missing", {OLD}) is None
    if os.geteuid() == 0:
        os.chown(place / "open", OLD, -1)
        assert safe_files.changeable(inner / "missing", {OLD}) == (place / "open", f"uid {OLD}")


@as_root
def test_a_workspace_is_made_and_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    workspace_folder.make(place / "new" / "work", NEW, NEW)
    assert owner(place / "new") == 0 and owner(place / "new" / "work") == NEW
    workspace_folder.make(place / "new" / "work", OTHER, OTHER)
    assert owner(place / "new" / "work") == NEW, "one that is there keeps its owner"
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    workspace_folder.make(place / "callers", NEW, NEW)
    workspace_folder.make(place / "accounts", NEW, NEW, callers=False)
    assert (owner(place / "callers"), owner(place / "accounts")) == (OTHER, NEW)
    monkeypatch.delenv("SUDO_GID", raising=False)
    workspace_folder.make(place / "jovyans", NEW, callers=False, private=True)
    info = (place / "jovyans").stat()
    assert (info.st_gid, info.st_mode & 0o777) == (workspace_folder.GID, 0o700), "Debian has all people in that group"
    monkeypatch.setenv("SUDO_GID", "0")
    for name, gid in (("private", 0), ("accounts", NEW)):
        workspace_folder.make(place / name, NEW, NEW, callers=False, private=True)
        info = (place / name).stat()
        assert (info.st_uid, info.st_gid) == (NEW, gid)
        assert info.st_mode & 0o777 == (0o750 if name == "private" else 0o755), "one that is there keeps its mode"


@as_root
def test_several_links_of_roots_are_followed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    (place / "one").symlink_to(place / "data")
    (place / "two").symlink_to("one")
    workspace_folder.make(place / "two" / ".." / "data" / "deep" / "work", NEW, NEW)
    assert owner(place / "data" / "deep" / "work") == NEW and owner(place / "data" / "deep") == 0
    (place / "loop").symlink_to("loop")
    with pytest.raises(TrackbedError, match="is a link"):
        workspace_folder.make(place / "loop" / "work", NEW, NEW)


@as_root
@pytest.mark.parametrize(
    ("where", "who", "followed"),
    [("work", OLD, False), ("work", 0, True), ("parent/work", OLD, False), ("parent/work", 0, True)],
)
def test_a_workspace_behind_somebodys_link(
    place: Path, monkeypatch: pytest.MonkeyPatch, where: str, who: int, followed: bool
) -> None:
    """Root's own links are followed; one that a notebook may have made is not, and nothing is made behind it."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    link, target = place / "data" / Path(where).parts[0], place / "root" / "target"
    link.symlink_to(target)
    os.chown(link, who, who, follow_symlinks=False)
    if followed:
        if where != "work":
            target.mkdir()
        workspace_folder.make(place / "data" / where, NEW, NEW)
        assert owner(target / "work" if where != "work" else target) == NEW
        return
    with pytest.raises(TrackbedError, match="WORKSPACE"):
        workspace_folder.make(place / "data" / where, NEW, NEW)
    assert not target.exists()


@as_root
def test_a_workspace_of_roots_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(TrackbedError, match="belongs to root") as caught:
        workspace_folder.make(place / "root", NEW, NEW)
    assert caught.value.hint.startswith("chown -hR ")
    with pytest.raises(TrackbedError, match="is not a folder"):
        workspace_folder.make(place / "root" / "key", NEW, NEW)
    assert workspace_folder.give_to(place / "root", OLD, NEW, NEW) == safe_files.Handover()
    (place / "link").symlink_to(place / "root")
    os.chown(place / "link", OLD, OLD, follow_symlinks=False)
    with pytest.raises(OSError):
        workspace_folder.give_to(place / "link", OLD, NEW, NEW)
    assert owner(place / "root") == 0
