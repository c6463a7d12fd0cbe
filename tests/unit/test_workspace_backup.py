"""The notebook's files in a backup and back: what its owner can put there leads nobody elsewhere and stops nobody."""

from __future__ import annotations

import io
import math
import os
import socket
import stat
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import clone
from helpers.backups import archive, formats, locations, salvage, workspace, workspace_entries
from helpers.backups.repository import Snapshot
from helpers.backups.repository_writer import Writer
from helpers.backups.storage import Folder
from helpers.data import workspace_files, workspace_restoring
from helpers.engines import streaming
from helpers.engines.base import JUPYTER, State
from helpers.engines.streaming import Pipe, piped
from helpers.errors import TrackbedError
from tests.unit.fakes import Silent, module_at
from tests.unit.test_repository import FACTS

OLD = 1_600_000_000_000_000_123  # ns


class Notebook:
    """An engine whose notebook is a program of this account, in a folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.workspace_inside = folder, str(folder)
        self.replaced = self.only = ""  # the program, for one task alone
        self.deployment = SimpleNamespace(workspace=folder)
        self.settings = SimpleNamespace(
            **{
                "data_volume": "",
                "backup_workspace_exclude": (".ipynb_checkpoints", "*.ckpt", "raw/big"),
                "backup_workspace_largest": "1m",
                **settings,
            }
        )

    def services(self) -> list[Any]:
        return [SimpleNamespace(name=JUPYTER, state=State.READY)]

    def pipe(self, service: str, argv: tuple[str, ...], fresh: bool = False) -> AbstractContextManager[Pipe]:
        assert service == JUPYTER
        if self.replaced and (self.only in argv or not self.only):
            return piped("python", [sys.executable, "-c", self.replaced])
        return piped("python", [sys.executable, *argv[1:]])


@pytest.fixture
def notebook(tmp_path: Path) -> Notebook:
    return Notebook(tmp_path / "work")


def put(notebook: Notebook, name: str, content: bytes = b"content", mode: int = 0o644) -> Path:
    path = notebook.folder / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(OLD, OLD))
    return path


def back_up(notebook: Notebook, place: Path, until: float = math.inf) -> tuple[Path | Snapshot, workspace.Kept]:
    """Into an archive where the place is called so, else into a repository."""
    about = {"made": "2026-01-01T00:00:00+00:00", **workspace.about(notebook, True)}  # type: ignore[arg-type]
    if place.suffix == ".tar":
        with place.open("wb") as stream:
            writer = archive.Writer(stream, about)
            kept = workspace.back_up(notebook, writer, Silent(), until=until)  # type: ignore[arg-type]
            writer.finish(FACTS | kept.facts)
        return place, kept
    with Writer(Folder(place), "p", about, "here") as writing:
        kept = workspace.back_up(notebook, writing, Silent(), until=until)  # type: ignore[arg-type]
        name, _ = writing.finish(FACTS | kept.facts)
    return Snapshot(Folder(place), name), kept


def restore(source: Path | Snapshot, notebook: Notebook, skip_damaged: bool = False) -> list[str]:
    rest = (salvage.undamaged if skip_damaged else salvage.complete)(source, None)
    before, members = workspace.split(rest.members())
    assert not [name for name, _, _ in before if workspace_entries.is_of_workspace(name)]
    staged = workspace.stage(notebook, rest, members, Silent())  # type: ignore[arg-type]
    return workspace.place(notebook, staged)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path in folder.rglob("*"):
        info, name = path.lstat(), str(path.relative_to(folder))
        if path.is_symlink():
            result[name] = os.readlink(path)
        else:
            result[name] = (
                oct(info.st_mode),
                info.st_mtime_ns if path.is_file() else 0,
                path.is_file() and path.read_bytes(),
            )
    return result


def test_many_files_come_back(notebook: Notebook, tmp_path: Path) -> None:
    """Before, the two sides waited for each other: the list did not fit into a pipe, and neither did the sums."""
    for number in range(1500):
        put(notebook, f"a folder {number % 7} with a name of some length/{'a file with a long name' * 4} {number}")
    source, _ = back_up(notebook, tmp_path / "b.tar")
    other = Notebook(tmp_path / "other")
    assert restore(source, other) == ["workspace: 1500 files of the backup"]


def test_a_notebook_that_takes_nothing_is_not_waited_for(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a restore stood still until Ctrl-C."""
    put(notebook, "large", os.urandom(2**20))
    source, _ = back_up(notebook, tmp_path / "b.tar")
    other = Notebook(tmp_path / "other")
    other.replaced, other.only = "import time; time.sleep(600)", "write"
    monkeypatch.setattr(workspace_files, "SILENCE", 1)
    monkeypatch.setattr(streaming, "TELL", 0.2)
    told: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "step", told.append, raising=False)
    rest = salvage.complete(source, None)
    before, members = workspace.split(rest.members())
    assert list(before)
    with pytest.raises(TrackbedError, match="has taken none of its input for 1 s") as caught:
        workspace.stage(other, rest, members, progress)  # type: ignore[arg-type]
    assert "--no-workspace" in caught.value.hint and any("takes no files" in line for line in told)


@pytest.fixture(params=["b.tar", "repository"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_there_and_back(notebook: Notebook, place: Path, tmp_path: Path) -> None:
    put(notebook, "a.ipynb", b"{}", 0o600)
    put(notebook, "deep/er/ä\nb", b"x" * 3000)
    put(notebook, "deep/\udcff\udcfe", b"not UTF-8")
    put(notebook, "leer", b"", 0o755)
    put(notebook, "locked/file", mode=0o444).parent.chmod(0o555)
    (notebook.folder / "empty folder").mkdir()
    (notebook.folder / "deep" / "link").symlink_to("../a.ipynb")
    source, kept = back_up(notebook, place)
    assert not kept.left_count and kept.files == 5
    assert locations.verify(source)["format"] == formats.WITH_WORKSPACE
    other = Notebook(tmp_path / "other")
    assert restore(source, other) == ["workspace: 5 files of the backup"]
    assert tree(other.folder) == tree(notebook.folder)


def test_what_is_left_out_is_named(notebook: Notebook, place: Path, tmp_path: Path) -> None:
    """No link out of the workspace is followed or kept, and nothing that is no file is opened."""
    secret = tmp_path / "secret"
    secret.write_text("of somebody else")
    put(notebook, "kept")
    put(notebook, "model.ckpt")
    put(notebook, "raw/big")
    put(notebook, "large", b"x" * (2**20 + 1))
    put(notebook, "env/pyvenv.cfg")
    put(notebook, "a/.ipynb_checkpoints/x")
    put(notebook, "suid", mode=0o4755)
    (notebook.folder / "out").symlink_to(secret)
    (notebook.folder / "up").symlink_to("../secret")
    (notebook.folder / "folder").symlink_to(tmp_path)
    os.mkfifo(notebook.folder / "fifo")
    with socket.socket(socket.AF_UNIX) as own:
        here = os.getcwd()
        os.chdir(notebook.folder)
        own.bind("socket")
        os.chdir(here)
    source, kept = back_up(notebook, place)
    assert {line.partition(":")[0] for line in kept.left} == {
        *("model.ckpt", "raw/big", "large", "env", "a/.ipynb_checkpoints", "out", "up", "folder", "fifo", "socket")
    }
    other = Notebook(tmp_path / "other")
    restore(source, other)
    names = {path.name for path in other.folder.rglob("*") if not path.is_dir()}
    assert names == {"kept", "suid"} and not (other.folder / "suid").stat().st_mode & stat.S_ISUID
    assert b"somebody" not in (
        place.read_bytes()
        if place.is_file()
        else b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())
    )


def test_the_second_backup_reads_only_what_changed(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = workspace_files.program().decode().replace("AT_REST = 2 * 10**9", "AT_REST = -1")
    monkeypatch.setattr(workspace_files, "program", text.encode)
    put(notebook, "same", b"1" * 100)
    put(notebook, "other", b"2" * 100)
    first, _ = back_up(notebook, tmp_path / "r")
    put(notebook, "other", b"3" * 100)
    read: list[str] = []
    plain = Writer.file

    def noted(self: Writer, name: str, *rest: Any) -> None:
        read.append(name)
        plain(self, name, *rest)

    monkeypatch.setattr(Writer, "file", noted)
    second, kept = back_up(notebook, tmp_path / "r")
    assert read == ["other"] and kept.files == 2
    restore(second, fresh := Notebook(tmp_path / "fresh"))
    assert (fresh.folder / "other").read_bytes() == b"3" * 100 and (fresh.folder / "same").read_bytes() == b"1" * 100
    assert locations.verify(first)


def with_examples(folder: Path) -> Notebook:
    """A workspace that nobody has touched since it was given the examples."""
    other = Notebook(folder)
    module_at(clone.NOTEBOOK_PACKAGE / "examples.py").give(str(other.folder))
    assert (other.folder / "welcome.ipynb").is_file()
    return other


def test_the_untouched_examples_of_a_new_workspace_make_room(notebook: Notebook, place: Path, tmp_path: Path) -> None:
    put(notebook, "welcome.ipynb", b"of the backup")
    put(notebook, "a/b", b"of the backup")
    source, kept = back_up(notebook, place)
    other = with_examples(tmp_path / "other")
    assert restore(source, other) == [f"workspace: {kept.files} files of the backup"]
    (other.folder / ".trackbed-examples").unlink()
    assert tree(other.folder) == tree(notebook.folder)


@pytest.mark.parametrize("change", ["welcome.ipynb", "examples/3-sweep.ipynb", "examples/mine.txt", "mine/x", "mine/"])
def test_examples_that_somebody_changed_are_files_like_others(
    notebook: Notebook, place: Path, tmp_path: Path, change: str
) -> None:
    put(notebook, "a", b"of the backup")
    source, _ = back_up(notebook, place)
    other = with_examples(tmp_path / "other")
    if change == "mine/":
        (other.folder / "mine").mkdir()
    else:
        put(other, change, b"mine")
    before = tree(other.folder)
    (line,) = restore(source, other)
    (folder,) = other.folder.glob("restored-*")
    assert folder.name in line and (folder / "a").read_bytes() == b"of the backup"
    after = tree(other.folder)
    assert {name: after[name] for name in before} == before


def test_files_that_are_there_stay_as_they_are(notebook: Notebook, place: Path, tmp_path: Path) -> None:
    put(notebook, "a", b"of the backup")
    source, _ = back_up(notebook, place)
    other = Notebook(tmp_path / "other")
    put(other, "a", b"newer")
    (line,) = restore(source, other)
    (folder,) = other.folder.glob("restored-*")
    assert folder.name in line and (folder / "a").read_bytes() == b"of the backup"
    assert (other.folder / "a").read_bytes() == b"newer"
    restore(source, other)
    assert len(list(other.folder.glob("restored-*"))) == 2 and not list(other.folder.glob(".trackbed*"))


def test_what_jupyterlab_would_run_does_not_come_to_the_top(notebook: Notebook, place: Path, tmp_path: Path) -> None:
    put(notebook, "a")
    put(notebook, "jupyter_server_config.py", b"raise SystemExit")
    source, _ = back_up(notebook, place)
    other = Notebook(tmp_path / "other")
    lines = restore(source, other)
    assert (other.folder / "a").exists() and not (other.folder / "jupyter_server_config.py").exists()
    assert "jupyter_server_config.py" in lines[-1] and list(other.folder.glob("restored-*/jupyter_server_config.py"))


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit('killed')",
        "print('no JSON')",
        'print(\'["file", "../../etc/passwd", 1, 420, 0, ""]\')',
        'print(\'["file", "a", 1e99, 420, 0, ""]\')',
        "print('[\"end\", 7]')",
        "print('x' * 10**6)",
    ],
)
def test_a_notebook_that_answers_anything_does_not_stop_a_backup(notebook: Notebook, place: Path, program: str) -> None:
    notebook.replaced = program
    source, kept = back_up(notebook, place)
    assert kept.problem and any("lacks files" in line for line in kept.lines)
    assert locations.verify(source)["workspace_files"] == 0


def test_a_notebook_that_says_nothing_is_given_up(
    notebook: Notebook, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_files, "SILENCE", 0.2)
    notebook.replaced = "import time; time.sleep(600)"
    _, kept = back_up(notebook, place)
    assert "no answer" in kept.problem


def test_files_that_come_too_late_are_not_waited_for(notebook: Notebook, place: Path, tmp_path: Path) -> None:
    """And who restores such a backup is told that it lacks them."""
    put(notebook, "file")
    source, kept = back_up(notebook, place, until=0.0)
    assert (
        kept.lines == ["the backup lacks files of the notebook's workspace: it takes its input too slowly"]
        and not kept.files
    )
    assert restore(source, Notebook(tmp_path / "other"))[-1] == f"warning: {kept.lines[0]}"


def test_input_that_is_taken_in_drops_is_not_waited_for() -> None:
    """Before, each byte that the notebook took began its time again."""
    with piped("python", [sys.executable, "-c", "import os\nwhile os.read(0, 1): pass"]) as pipe:
        pipe.into.end = time.monotonic() + 0.5
        with pytest.raises(streaming.Stuck, match="too slowly"):
            pipe.into.write(bytes(2**28))


def test_a_list_without_end_fills_no_disk(notebook: Notebook, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_files, "LONGEST_LIST", 2**20)
    notebook.replaced = "import json\nn = 0\nwhile True: n += 1; print(json.dumps(['dir', f'{n}', 0, 0]))"
    _, kept = back_up(notebook, place)
    assert "too many files" in kept.problem


def test_a_file_that_ends_early_is_named_and_not_restored(
    notebook: Notebook, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        workspace_files.program()
        .decode()
        .replace("sys.stdout.buffer.write(data)\n", 'raise OSError(5, "Input/output error")\n', 1)
    )
    put(notebook, "broken")
    with monkeypatch.context() as patch:
        patch.setattr(workspace_files, "program", text.encode)
        source, kept = back_up(notebook, place)
    assert kept.left == ["broken: cannot be read: Input/output error"] and not kept.problem
    other = Notebook(tmp_path / "other")
    restore(source, other)
    assert not list(other.folder.iterdir())


def crafted(path: Path, files: dict[str, bytes], listed: list[list[Any]]) -> Path:
    """A backup as somebody else could write it."""
    import io
    import json

    with path.open("wb") as stream:
        writer = archive.Writer(stream, {"format": 2, "made": ""})
        for name, content in files.items():
            writer.file(name, len(content), io.BytesIO(content))
        text = b"".join(json.dumps(line).encode() + b"\n" for line in listed)
        writer.files_list(len(text), io.BytesIO(text))
        writer.finish(FACTS)
    return path


def test_a_foreign_backup_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    source = crafted(
        tmp_path / "b.tar",
        {"a": b"1", "d/x": b"2"},
        [
            ["file", "a", 1, 0o4777, OLD],
            ["file", "a", 1, 0o777, OLD],
            ["link", "l", str(outside), OLD],
            ["link", "m", "../outside", OLD],
            ["link", "d", "a", OLD],
            ["dir", "../outside/made", 0o777, OLD],
            ["dir", "/etc", 0o777, OLD],
            ["file", "missing", 1, 0o600, OLD],
            ["void", "d", "cannot be read", 1],
            ["nonsense", "a", 1],
        ],
    )
    other = Notebook(tmp_path / "other")
    lines = restore(source, other)
    assert {path.name for path in other.folder.rglob("*")} == {"a", "d", "x"} and not list(outside.iterdir())
    assert (other.folder / "a").stat().st_mode & 0o7777 == 0o777
    assert any(line.startswith("warning: missing") for line in lines)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_backup_that_cannot_be_written_changes_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = crafted(tmp_path / "b.tar", dict.fromkeys(names, b"1"), [])
    other = Notebook(tmp_path / "other")
    put(other, "mine")
    with pytest.raises(TrackbedError, match="workspace") as error:
        restore(source, other)
    assert "--no-workspace" in (error.value.hint or "")
    assert [path.name for path in other.folder.iterdir()] == ["mine"]


def test_damage_to_one_file(notebook: Notebook, place: Path, tmp_path: Path) -> None:
    put(notebook, "harmed", b"harmed" * 100)
    put(notebook, "whole")
    source, _ = back_up(notebook, place)
    targets = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    for path in targets:
        if b"harmed" * 100 in (content := path.read_bytes()):
            path.write_bytes(content.replace(b"harmed" * 100, b"harmeD" + b"harmed" * 99))
    with pytest.raises(TrackbedError):
        locations.verify(source)
    rest = salvage.undamaged(source, None)
    assert rest.left == ("workspace/harmed",) and rest.files == 1
    other = Notebook(tmp_path / "other")
    restore(source, other, skip_damaged=True)
    assert [path.name for path in other.folder.iterdir()] == ["whole"]


def test_a_backup_without_a_workspace_is_as_before(tmp_path: Path) -> None:
    with (tmp_path / "b.tar").open("wb") as stream:
        manifest = archive.Writer(stream, {}).finish(FACTS)
    assert manifest["format"] == formats.PLAIN and not [key for key in manifest if key.startswith("workspace")]


def test_the_data_set_in_a_workspace_is_left_out(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path / "work", data_volume=str(tmp_path / "work" / "sets" / "food"))
    put(notebook, "sets/food/large")
    put(notebook, "sets/mine")
    _, kept = back_up(notebook, tmp_path / "b.tar")
    assert kept.files == 1 and kept.left == ["sets/food: matches sets/food"]


def test_the_disk_is_not_filled(notebook: Notebook, tmp_path: Path) -> None:
    put(notebook, "a", b"x" * 1000)
    with (tmp_path / "b.tar").open("wb") as stream, pytest.raises(TrackbedError, match="of the disk"):
        workspace.back_up(notebook, archive.Writer(stream, {"format": 2}), Silent(), room=999)  # type: ignore[arg-type]


def test_the_disk_gets_the_files_of_a_restore_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them at the end may take a slow disk minutes in which the program says nothing, and counts as stuck."""
    synced: list[int] = []
    monkeypatch.setattr(workspace_restoring, "DIRTY", 1000)
    monkeypatch.setattr(workspace_restoring, "FREE", 0)
    monkeypatch.setattr(workspace_restoring.Restoring, "sync", lambda self: synced.append(self.dirty))
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        restoring = workspace_restoring.Restoring(root, 5000)
        for number in range(10):
            restoring.file(f"d/{number}", 500, io.BytesIO(bytes(500)))
        assert synced == [1000] * 5
        os.close(restoring.handle)
    finally:
        os.close(root)
