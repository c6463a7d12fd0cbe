"""`doctor` looks at what the last failed start was told, and `build` builds it (helpers/project/failed_start.py)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from helpers import clone, lifecycle
from helpers.cli import toolkit
from helpers.engines.docker import building
from helpers.errors import Interrupted, TrackbedError, WrongProject
from helpers.project import failed_start
from helpers.project.project import Project
from helpers.settings import Settings


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    monkeypatch.setenv("TRACKBED_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKBED_MLFLOW_PORT", "23456")
    monkeypatch.setattr(clone, "ROOT", tmp_path / "clone")
    (tmp_path / "p").mkdir()
    return {"project": "p"}


def start(flags: dict[str, str | None], *errors: type[TrackbedError], **reported: str) -> Settings:
    settings = lifecycle.load({**flags, **reported}).settings
    for error in errors:
        with pytest.raises(error), failed_start.noted(settings):
            raise error("no")
    if not errors:
        with failed_start.noted(settings):
            pass
    return settings


def test_flags_of_a_failed_start_count_until_one_works(flags: dict[str, str | None], tmp_path: Path) -> None:
    start(flags, TrackbedError, workspace="/srv/lab", gpu="none", mlflow_port="23457")
    file = tmp_path / "p" / failed_start.FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    project, tried = lifecycle.last_tried(flags)
    assert str(project.settings.workspace) == "/srv/lab" and str(project.settings.gpu) == "none"
    assert project.settings.mlflow_port == 23456 and tried == ("--gpu", "--workspace"), "what is named now wins"
    project, tried = lifecycle.last_tried({**flags, "workspace": "/srv/other"})
    assert str(project.settings.workspace) == "/srv/other" and tried == ("--gpu",)
    assert str(lifecycle.load(flags).settings.gpu) == "auto", "it is not remembered"
    start(flags, TrackbedError)
    assert not file.exists() and lifecycle.last_tried(flags)[1] == (), "the last one was told nothing"
    start(flags, TrackbedError, gpu="none")
    start(flags)
    assert not file.exists(), "it works"
    start(flags, Interrupted, gpu="none")
    assert not file.exists(), "the next one goes on"
    start(flags, WrongProject, tracking_uri="https://mlflow.example.org")
    assert lifecycle.last_tried(flags)[1] == (), "that was asked of the wrong project"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"WORKSPACE": 1}',
        '{"WORKSPACE": "relative"}',
        '{"NO_SUCH": "x"}',
        '{"S3_SECRET_KEY": "longenough"}',
        "[" * 100_000,
    ],
)
def test_a_note_that_cannot_be_used_is_passed_over(flags: dict[str, str | None], tmp_path: Path, content: str) -> None:
    (tmp_path / "p" / failed_start.FILE).write_text(content)
    project, tried = lifecycle.last_tried(flags)
    assert tried == () and project.settings.workspace == tmp_path / "p" / "workspace"


def test_a_folder_that_takes_no_note_hides_nothing(flags: dict[str, str | None], tmp_path: Path) -> None:
    (tmp_path / "p").rmdir()
    start(flags, TrackbedError, gpu="none")


def test_what_it_lacked_is_built(
    flags: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[tuple[str, ...]] = []

    def build(project: Project, names: tuple[str, ...], *_: object) -> tuple[()]:
        built.append((str(project.settings.gpu), *names))
        return ()

    monkeypatch.setattr(building, "build", build)
    start(flags, TrackbedError, engine="kubernetes", public="true", public_address="lab.example.org", gpu="h100")
    toolkit.build(flags, "", False, "", False)
    assert built == [("h100", "mlflow", "jupyter", "gateway")]
    assert "built with the settings of the last `invoke up" in capsys.readouterr().err
