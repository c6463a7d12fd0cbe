"""helpers/cli/running.py: what `down --delete-data` says that it keeps."""

from __future__ import annotations

from pathlib import Path

from helpers.cli import running
from tests.unit import fakes


def test_backups_stay_and_are_named(tmp_path: Path) -> None:
    project = fakes.project(tmp_path)
    assert running.kept(project, ()) == f"the files in the workspace {project.settings.workspace}"
    backups = project.settings.folder / "backups"
    backups.mkdir(parents=True)
    assert "backups in" not in running.kept(project, ())
    (backups / "a.tar").touch()
    assert running.kept(project, ()).endswith(f" and the backups in {backups}")
