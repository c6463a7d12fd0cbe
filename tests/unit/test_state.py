"""A project's state file and lock."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.errors import TrackbedError
from helpers.project import state
from helpers.project.state import FILE, State, lock, make_folder, remembered
from tests.conftest import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_saved_and_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "trackbed"
    fresh = State.load(folder)
    assert not fresh.existed and not folder.exists() and len(fresh.instance) == 32
    assert (fresh.engine, fresh.active, fresh.applied) == (
        "",
        {"database": "mlflow", "prefix": "live"},
        {"hash": "", "identities": {}},
    )
    assert fresh.instance != State.load(folder).instance
    fresh.engine, fresh.clone = "docker", "/clone"
    fresh.remember({"MLFLOW_PORT": "8100", "GPU": "none"})
    fresh.remember({"GPU": ""})
    fresh.save()
    again = State.load(folder)
    assert again == fresh and again.existed
    assert remembered(folder) == {"MLFLOW_PORT": "8100"}
    assert mode(folder / FILE) == 0o600
    assert [p.name for p in folder.iterdir()] == [FILE]


@pytest.mark.parametrize(("uid", "private", "expected"), [(0, False, 0o755), (0, True, 0o700), (1000, False, 0o700)])
def test_folder_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, private: bool, expected: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    previous = os.umask(0o077)
    try:
        assert mode(make_folder(tmp_path / "a" / "b", private)) == expected
    finally:
        os.umask(previous)


WHOLE = {
    "format": 1,
    "instance": "x",
    "engine": "",
    "clone": "",
    "remembered": {},
    "live": {"database": "d", "prefix": "p"},
    "applied": {"hash": "", "identities": {}},
}
DAMAGED = "is damaged or half-written"
FOREIGN = "is not a state file of Trackbed"
BROKEN: list[tuple[bytes, str]] = [
    (b"", DAMAGED),
    (b'{"format": 1, "inst', DAMAGED),
    (b"\0" * 100, DAMAGED),
    (b"\xff\xfe", DAMAGED),
    (b"[" * 100_000, DAMAGED),
    (b"[]", FOREIGN),
    (b"null", FOREIGN),
    (b'{"version": 4, "terraform_version": "1"}', FOREIGN),
    *(
        (json.dumps({**WHOLE, key: wrong}).encode(), f"{FOREIGN} ({key} is missing or wrong)")
        for key, wrong in (
            ("instance", ""),
            ("instance", 5),
            ("engine", None),
            ("clone", []),
            ("remembered", {"A": 1}),
            ("remembered", []),
            ("live", {}),
            ("live", {"database": "d"}),
            ("applied", {}),
            ("applied", {"hash": "x", "identities": []}),
        )
    ),
]


@pytest.mark.parametrize(("content", "why"), BROKEN)
def test_broken_state_is_an_error_with_a_next_step(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / FILE
    path.write_bytes(content)
    with pytest.raises(TrackbedError) as caught:
        State.load(tmp_path)
    assert caught.value.message == f"{path} {why}"
    assert caught.value.hint.startswith(f"move it away and run the same command again: mv {path} {path}.broken")
    assert path.read_bytes() == content


def test_newer_state(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"format": 2}))
    with pytest.raises(TrackbedError, match="was written by a newer Trackbed"):
        State.load(tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "trackbed").write_text("")
    assert not State.load(tmp_path / "trackbed").existed
    with pytest.raises(TrackbedError, match="is a file, must be a folder"):
        State(tmp_path / "trackbed").save()


def test_full_disk_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = State(tmp_path)
    first.save()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    first.engine = "docker"
    with pytest.raises(TrackbedError, match="the disk is full"):
        first.save()
    assert State.load(tmp_path).engine == "" and [p.name for p in tmp_path.iterdir()] == [FILE]


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until it is killed."""
    code = (
        "import sys,time;from pathlib import Path;from helpers.project.state import lock\n"
        "with lock(Path(sys.argv[1]), command='invoke up'):\n print('held', flush=True); time.sleep(600)"
    )
    created = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert created.stdout is not None and created.stdout.readline() == "held\n"
    return created


def test_second_waits_then_says_who_and_a_killed_holder_frees(tmp_path: Path) -> None:
    path = tmp_path / "p" / "lock"
    process = holder(path)
    try:
        said: list[str] = []
        begin = time.monotonic()
        with pytest.raises(TrackbedError) as caught, lock(path, 0.5, said.append):
            pass
        assert 0.4 < time.monotonic() - begin
        assert len(said) == 1 and said[0].startswith(f"waiting for `invoke up` (process {process.pid}, since ")
        assert f"`invoke up` (process {process.pid}, since " in caught.value.message
        assert caught.value.message.endswith("is still at work on this project (waited 0 s)")
        process.send_signal(signal.SIGKILL)
        with lock(path, PATIENCE):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert path.read_text() == "" and mode(path) == 0o600
    finally:
        process.kill()
        process.communicate()


def test_lock_is_freed_by_an_exception_and_not_inherited_by_children(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(KeyboardInterrupt), lock(path):
        child = subprocess.Popen(["sleep", "30"], close_fds=False)
        raise KeyboardInterrupt
    try:
        with lock(path, 0):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_lock_that_nobody_can_hold_is_not_taken_for_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a timer whose lock could not be opened said that another one was at work, and ended well."""
    path = tmp_path / "lock"
    with state.lock_if_free(path) as first, state.lock_if_free(path) as second:
        assert (first, second) == (True, False)

    def refused(*words: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(TrackbedError, match="read-only") as caught, state.lock_if_free(path):
        pass
    assert not isinstance(caught.value, state.AtWork)
