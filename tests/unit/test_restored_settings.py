"""Settings that come with a backup: taken over where it is live, named, and never left by a restore that failed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import console, start, status
from helpers.backups import locations, restore, unpack
from helpers.cli import data, options
from helpers.data import journal
from helpers.errors import TrackbedError
from helpers.project.project import Project
from helpers.project.state import State
from tests.unit import fakes


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    created = fakes.project(tmp_path)
    created.state.remembered = {"MLFLOW_WORKERS": "2"}
    created.state.save()
    engine = SimpleNamespace(halt=lambda *_: None)
    monkeypatch.setattr(status, "running", lambda _: engine)
    monkeypatch.setattr(unpack, "copy", lambda *_: {"database": "new", "prefix": "new"})
    monkeypatch.setattr(unpack, "abandon", lambda *_: None)
    monkeypatch.setattr(unpack, "settings_of", lambda _: {"MLFLOW_WORKERS": "4", "TORCH": "none"})
    monkeypatch.setattr(journal, "recover", lambda *_: None)
    return created


def replaced(project: Project, said: list[str]) -> None:
    rest = cast(Any, SimpleNamespace(manifest={"schema": ""}))
    restore._replace(project, cast(Any, None), rest, fakes.Silent(), said.append, keep_before=False)


def kept(project: Project) -> dict[str, str]:
    assert State.load(project.settings.folder).remembered == project.state.remembered
    return project.state.remembered


def test_they_are_taken_over_where_there_are_none_and_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "bring_up", lambda *_: (None, None))
    said: list[str] = []
    replaced(project, said)
    assert kept(project) == {"MLFLOW_WORKERS": "2", "TORCH": "none"}
    assert said == ["settings of the backup, from the next start on: TORCH=none; to forget them: `invoke up --torch=`"]


def test_a_restore_that_failed_leaves_none(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(project: Project, *_: object) -> tuple[None, None]:
        project.state.save()
        if project.state.active["database"] == "new":
            raise TrackbedError("no")
        return None, None

    monkeypatch.setattr(start, "bring_up", fail)
    said: list[str] = []
    with pytest.raises(TrackbedError, match="do not start"):
        replaced(project, said)
    assert kept(project) == {"MLFLOW_WORKERS": "2"} and said == []
    assert project.state.active["database"] == "mlflow"


def test_nobody_is_asked_about_a_backup_that_is_not_there(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(options, "load", lambda given: project)
    monkeypatch.setattr(console, "confirm", asked.append)
    project.state.existed = True
    with pytest.raises(TrackbedError, match="no backup found"):
        data.restore({}, str(tmp_path / "nothing.tar"), "", False, False, False, False)
    assert not asked
    for name, made in (("z.tar", 1), ("a.tar", 2)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (made, made))
    with pytest.raises(TrackbedError, match="no backup found") as error:
        data.restore({}, str(tmp_path), "", False, False, False, False)
    assert error.value.hint == f"name one of the files in it; the newest is {tmp_path}/a.tar"
    monkeypatch.setattr(locations, "source", lambda *_: tmp_path / "a.tar")
    monkeypatch.setattr(locations, "manifest", lambda _: {"made": "2026-11-27T09:52:46+00:00"})
    with pytest.raises(TrackbedError, match="nothing was restored"):
        data.restore({}, str(tmp_path), "", False, False, False, False)
    assert len(asked) == 1 and f"by {tmp_path}/a.tar, made 2026-11-27T09:52:46+00:00?" in asked[0]
