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
    for path in ROOT.glob("*.py"):
        shutil.copy(path, clone)
    shutil.copytree(ROOT / "helpers", clone / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "docker").symlink_to(ROOT / "docker")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | more
    subprocess.run(
        [sys.executable, "-m", "invoke", "--list"], cwd=clone, env=env, check=True, stdout=subprocess.DEVNULL
    )
    return {path.name.partition(".")[0] for path in clone.rglob("*.pyc")}


def test_invoke_keeps_the_byte_code_of_what_it_imports(tmp_path: Path) -> None:
    assert {"command_line", "backup_tasks", "help"} <= listed(tmp_path)


def test_who_wants_none_gets_none(tmp_path: Path) -> None:
    assert listed(tmp_path, PYTHONDONTWRITEBYTECODE="1") == set()


def test_none_is_left_in_the_clone_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "flags", type("Flags", (), {"dont_write_bytecode": 0}))
    assert byte_code.is_kept(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert not byte_code.is_kept(tmp_path)
    assert not byte_code.is_kept(tmp_path / "gone")
