"""Settings that come with a backup: taken over where it is live, named, and never left by a restore that failed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import start, status
from helpers.backups import restore, unpack
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
