"""The toolkit's modules are compiled once, not by each `invoke`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import byte_code
from helpers.clone import ROOT


def listed(clone: Path, **more: str) -> set[str]:
    """The modules with byte code after one `invoke --list` in a copy of the clone."""
    if not (clone / "docker").exists():
        for path in ROOT.glob("*.py"):
            shutil.copy(path, clone)
        shutil.copytree(ROOT / "helpers", clone / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
        (clone / "docker").symlink_to(ROOT / "docker")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | more
    subprocess.run(
        [sys.executable, "-m", "invoke", "--list"], cwd=clone, env=env, check=True, stdout=subprocess.DEVNULL
    )
    return {path.name.partition(".")[0] for path in clone.rglob("*.pyc")}


def compiled(clone: Path, module: str) -> Path:
    """Its byte code."""
    return next(clone.rglob(f"{module}.*.pyc"))


def test_invoke_keeps_the_byte_code_of_what_it_imports(tmp_path: Path) -> None:
    assert {"command_line", "backup_tasks", "help"} <= listed(tmp_path)


def test_who_wants_none_gets_none(tmp_path: Path) -> None:
    assert listed(tmp_path, PYTHONDONTWRITEBYTECODE="1") == set()


def test_none_is_kept_where_every_account_could_replace_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", type("Flags", (), {"dont_write_bytecode": 0}))
    for mask, kept in ((0o022, True), (0o077, True), (0o002, True), (0o000, False), (0o020, False)):
        before = os.umask(mask)
        try:
            assert byte_code.is_kept(tmp_path) is kept
        finally:
            assert os.umask(before) == mask
    assert byte_code.is_kept(tmp_path)


def test_none_is_left_in_the_clone_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", type("Flags", (), {"dont_write_bytecode": 0}))
    assert byte_code.is_kept(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert not byte_code.is_kept(tmp_path)
    assert not byte_code.is_kept(tmp_path / "gone")


def test_byte_code_that_a_full_disk_or_a_power_cut_has_cut_off_is_made_again(tmp_path: Path) -> None:
    """Python ends with a traceback there, at each `invoke`, also at the one that would free the disk."""
    listed(tmp_path)
    whole = {module: compiled(tmp_path, module).read_bytes() for module in ("command_line", "flags", "help")}
    compiled(tmp_path, "command_line").write_bytes(whole["command_line"][:3000])
    compiled(tmp_path, "flags").write_bytes(whole["flags"][:16] + bytes(len(whole["flags"]) - 16))
    compiled(tmp_path, "help").write_bytes(b"")
    listed(tmp_path)  # removes what is damaged
    listed(tmp_path)
    assert {module: compiled(tmp_path, module).read_bytes() for module in whole} == whole


def test_damaged_byte_code_of_another_user_is_left_alone(tmp_path: Path) -> None:
    listed(tmp_path)
    damaged = compiled(tmp_path, "command_line")
    damaged.write_bytes(content := damaged.read_bytes()[:3000])
    listed(tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert damaged.read_bytes() == content


def test_other_folders_are_loaded_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clone").mkdir()
    monkeypatch.setattr(sys, "path_hooks", [*sys.path_hooks])
    byte_code.load_below(str(tmp_path / "clone"))
    hook = sys.path_hooks[0]
    assert hook(str(tmp_path / "clone"))
    for other in (tmp_path, tmp_path / "clone-2", tmp_path / "clone" / "none"):
        with pytest.raises(ImportError):
            hook(str(other))
