"""A move that was interrupted: the next command removes the copy on the side that is not the project's."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import lifecycle, start
from helpers.backups import last, move
from helpers.backups.workspace import NotTaken
from helpers.cli import data, options
from helpers.data import move_note
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.kubernetes.engine import KubernetesEngine
from helpers.errors import EngineUnavailable, SettingError, TrackbedError
from helpers.project.backup_runs import CLUSTER, Schedule
from helpers.project.project import Project
from helpers.services import Availability
from tests.unit.fakes import Silent, project


@pytest.mark.parametrize("switched", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "store"),
    [
        ("docker", "embedded", "folder"),
        ("docker", "embedded", "auto"),
        ("embedded", "docker", "minio"),
        ("embedded", "docker", "versitygw"),
        ("embedded", "docker", "auto"),
    ],
)
def test_a_store_of_the_other_engine_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, store: str, switched: bool
) -> None:
    cleared: list[str] = []

    def clear(engine: Engine, *_: object) -> bool:
        cleared.append(engine.name)
        return True

    monkeypatch.setattr(move_note, "clear", clear)
    created = project(tmp_path)
    created.state.engine = old
    created.state.save()
    move_note.begin(created, new, store)
    if switched:
        created.state.engine, created.state.remembered = new, {"ENGINE": new, "OBJECT_STORE": store}
    created.state.save()
    move_note.recover(project(tmp_path), Silent(), print)
    assert cleared == [old if switched else new]
    assert not list(created.settings.folder.glob("mov*"))


def test_the_other_side_takes_the_store_of_a_new_project(tmp_path: Path) -> None:
    """Not the one that Docker's projects of earlier releases have."""
    for engine in (DockerEngine, KubernetesEngine):
        target = move_note.scratch(project(tmp_path), engine.name, "auto")
        assert engine(target).object_store == "versitygw"


def test_an_engine_that_does_not_answer_keeps_its_copy_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, every later `up` of the side that has the data failed with it."""
    told: list[str] = []
    answers = False

    def stop(engine: Engine, *_: object) -> tuple[str, ...]:
        if not answers:
            raise EngineUnavailable("the cluster of context lab does not answer", "start it")
        return ()

    def remove_data(engine: Engine, progress: object, keep_workspace: bool = False) -> tuple[str, ...]:
        assert keep_workspace  # no archive has all of the notebook's files
        return ("they stay",)

    monkeypatch.setattr(KubernetesEngine, "stop", stop)
    monkeypatch.setattr(KubernetesEngine, "remove_data", remove_data)
    created = project(tmp_path)
    created.state.engine = "docker"
    created.state.save()
    move_note.begin(created, "kubernetes", "auto")
    move_note.recover(created, Silent(), told.append)
    assert move_note.pending(created)
    assert "on the kubernetes engine is still there: the cluster of context lab does not answer" in told[0]
    answers = True
    move_note.recover(created, Silent(), told.append)
    assert not move_note.pending(created) and told[-1] == "they stay"


def about_to_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project on Docker, and a cluster that has nothing of it."""
    created = project(tmp_path)
    created.state.engine = "docker"
    created.state.save()
    monkeypatch.setattr(lifecycle, "up", lambda *_: None)
    monkeypatch.setattr(select, "current", lambda _: DockerEngine(created))
    monkeypatch.setattr(KubernetesEngine, "availability", lambda _: Availability(True, True))
    monkeypatch.setattr(KubernetesEngine, "data", lambda _: ())
    return created


def test_a_move_that_fails_brings_up_the_old_side_also_where_the_new_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, the old side stayed down: what the new one said came first."""
    gone = EngineUnavailable("the cluster of context lab does not answer", "start it")

    def fail(*_: object, **__: object) -> None:
        raise gone

    up: list[str] = []
    told: list[str] = []
    created = about_to_move(tmp_path, monkeypatch)
    monkeypatch.setattr(KubernetesEngine, "stop", fail)
    monkeypatch.setattr(move, "_carry", fail)
    monkeypatch.setattr(start, "bring_up", lambda one, *_: up.append(one.state.engine))
    with pytest.raises(EngineUnavailable):
        move.move(created, "kubernetes", "", Silent(), told.append)
    assert up == ["docker"] and move_note.pending(created) and "is still there" in told[0]
    with pytest.raises(TrackbedError, match="the copy that an earlier move left is still there"):
        move.move(created, "kubernetes", "", Silent(), told.append)


def test_files_that_the_other_side_cannot_take_are_told_with_a_step_of_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore has `--no-workspace`, a backup has another place; a move has neither."""

    def fail(*_: object) -> None:
        raise NotTaken("the notebook's workspace: it needs 9.0 GiB", "`invoke restore BACKUP --no-workspace`")

    created = about_to_move(tmp_path, monkeypatch)
    monkeypatch.setattr(move_note, "recover", lambda *_: None)
    monkeypatch.setattr(move, "_carry", fail)
    monkeypatch.setattr(start, "bring_up", lambda *_: None)
    with pytest.raises(TrackbedError, match="needs 9.0 GiB") as caught:
        move.move(created, "kubernetes", "", Silent(), list[str]().append)
    assert "--no-workspace" not in caught.value.hint
    assert "TRACKBED_BACKUP_WORKSPACE_EXCLUDE='*' before the command" in caught.value.hint
    assert created.settings.reload({}, backup_workspace_exclude="*").backup_workspace_exclude == ("*",)


def test_after_a_move_the_last_backup_of_a_lease_is_made_by_the_new_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    created, view = project(tmp_path), SimpleNamespace(source=SimpleNamespace(scheduled_runs=lambda: None))
    created.settings.folder.mkdir(parents=True)
    Schedule(3600.0, "s3://vault/lab", time.time(), CLUSTER, 0).save(created.settings.folder)
    followed: list[object] = []

    def follow(moved: object, engine: object) -> tuple[str, ...]:
        followed.append(engine)
        return ("a line of it",)

    monkeypatch.setattr(options, "load", lambda given: created)
    monkeypatch.setattr(data, "move_project", lambda *_: (tmp_path / "a.tar", view))
    monkeypatch.setattr(data, "show_services", lambda _: None)
    monkeypatch.setattr(last, "follow", follow)
    data.move({}, "docker")
    said = capsys.readouterr().err
    assert followed == [view.source] and "a line of it" in said
    assert "cluster no longer runs the schedule" in said and "`invoke backup.schedule --every=1h" in said


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (EmbeddedEngine, "PUBLIC=true needs the docker engine"),
        (KubernetesEngine, "PUBLIC=true in a cluster needs the name or address"),
    ],
)
def test_a_public_project_is_not_copied_to_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: type[Engine], words: str
) -> None:
    created = project(tmp_path, public="true")
    created.state.engine = "docker"
    created.state.remembered = {"FOUND_ADDRESS": "203.0.113.7"}  # as a cloud named it
    created.state.save()
    monkeypatch.setattr(lifecycle, "up", lambda *_: None)
    monkeypatch.setattr(select, "current", lambda _: DockerEngine(created))
    monkeypatch.setattr(engine, "availability", lambda _: Availability(True, True))
    monkeypatch.setattr(engine, "data", lambda _: ())
    monkeypatch.setattr(move, "_carry", lambda *_: pytest.fail("copied"))
    with pytest.raises(SettingError, match=words):
        move.move(created, engine.name, "", Silent(), print)
    assert not move_note.pending(created)
