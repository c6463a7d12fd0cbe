"""`restore --into=NAME`: the other project gets this one's settings, but nothing that both would hold."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import second_project
from helpers.errors import SettingError
from helpers.project.project import Project
from tests.unit import fakes


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in [name for name in os.environ if name.startswith("TRACKBED_")]:
        monkeypatch.delenv(name)
    created = fakes.project(tmp_path, ready_timeout="99", engine="embedded")
    created.state.engine = "embedded"
    created.state.remembered = {"CULL_IDLE": "30m", "PUBLIC": "true", "MLFLOW_PORT": "8000"}
    created.state.save()
    created.settings = created.settings.reload(created.state.remembered)
    return created


def ports(project: Project) -> list[int]:
    return [getattr(project.settings, field) for field in second_project.PORTS]


def test_a_new_project_beside_this_one(project: Project) -> None:
    other = second_project.project(project, "two")
    assert other.aside and not other.state.existed and other.settings.project == "two"
    assert set(ports(other)).isdisjoint(ports(project)) and len(set(ports(other))) == 4
    assert other.settings.workspace == other.settings.folder / "workspace" != project.settings.workspace
    assert other.settings.ready_timeout == 99 and other.settings.engine == "embedded" and not other.settings.public
    other.state.remember(other.settings.explicit)
    assert other.state.remembered["MLFLOW_PORT"] == str(other.settings.mlflow_port)
    assert other.state.remembered["CULL_IDLE"] == "30m" and "PUBLIC" not in other.state.remembered


def test_one_that_is_there_keeps_its_ports(project: Project) -> None:
    first = second_project.project(project, "two")
    first.state.remember({**first.settings.explicit, "MLFLOW_PORT": "8765"})
    first.state.engine = "embedded"
    first.state.save()
    again = second_project.project(project, "two")
    assert again.settings.mlflow_port == 8765 and ports(again)[1:] == ports(first)[1:]
    assert again.state.instance == first.state.instance


@pytest.mark.parametrize(
    ("name", "expected"), [("trackbed", "this project itself"), ("no such Name", "PROJECT"), ("../x", "PROJECT")]
)
def test_names_that_cannot_be(project: Project, name: str, expected: str) -> None:
    with pytest.raises(SettingError, match=expected):
        second_project.project(project, name)


def test_a_bucket_is_not_shared(project: Project) -> None:
    project.settings = replace(project.settings, object_store="external")
    with pytest.raises(SettingError, match="one bucket"):
        second_project.project(project, "two")
