"""`invoke version` and the places that say which Trackbed this is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from helpers import __version__, references, version

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_number_has_one_place_and_the_changelog_begins_with_it() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    newest = re.search(r"^## (\S+?)[,\s]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == __version__


def test_the_versions_are_those_that_the_files_pin() -> None:
    result = version.versions()
    assert result["trackbed"] == __version__
    assert f"mlflow=={result['mlflow']} " in (ROOT / "docker/mlflow/requirements.txt").read_text()
    assert f"postgres:{result['postgres']}-" in references.image("postgres").name
    assert f":v{result['versitygw']}" in references.image("versitygw").name


def test_the_commit_of_a_clone_and_of_a_folder_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert version.commit(tmp_path) == ""
    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "a")):
        subprocess.run([*git, *words], check=True)
    assert re.fullmatch(r"[0-9a-f]{7,40}", version.commit(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.commit(tmp_path) == ""
