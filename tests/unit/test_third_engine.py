"""What stands on the protocol runs on an engine that nothing above it has ever heard of."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import dry_run, kernels, lifecycle, start, status
from helpers.backups import create
from helpers.checks import check, doctor, readiness
from helpers.cli import options
from helpers.cli import status as status_task
from helpers.data import journal
from helpers.engines import select
from helpers.engines.base import Engine
from helpers.engines.docker.engine import DockerEngine
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.errors import EngineUnavailable, ServiceFailed, SettingError, TrackbedError, WrongProject
from helpers.findings import Level
from helpers.project import failed_start
from helpers.project.project import Project
from helpers.project.state import State as Remembered
from helpers.services import JUPYTER, MLFLOW, POSTGRES, Availability, ServiceStatus, State
from helpers.settings import Settings, generated
from tests.unit.fakes import Silent, project
from tests.unit.memory_engine import MemoryEngine, in_memory

SERVICES = (POSTGRES, MLFLOW, JUPYTER)


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project that was told to be on the third engine, and has nothing yet."""
    with in_memory(tmp_path, monkeypatch) as created:
        yield created


@pytest.fixture
def up(one: Project) -> Project:
    one.state.save()
    lifecycle.up(one, Silent(), lambda line: None)
    return one


def test_up_twice_status_and_down(one: Project) -> None:
    one.state.save()
    progress = Silent()
    said: list[str] = []
    seen = lifecycle.up(one, progress, said.append)
    assert seen.engine == "memory" and seen.changed == SERVICES
    assert [row.status.state for row in seen.rows] == [State.READY] * 3
    assert Remembered.load(one.settings.folder).engine == "memory"
    again = lifecycle.up(one, Silent(), said.append)
    assert again.changed == () and [r.status.identity for r in again.rows] == [r.status.identity for r in seen.rows]
    view = status.read(one)
    assert status.condition(one, view) == "ready" and view.node == ""
    assert status.mlflow_url(view).startswith(f"http://127.0.0.1:{one.settings.mlflow_port}/")
    assert lifecycle.down(one, Silent(), said.append) == tuple(reversed(SERVICES))
    assert status.condition(one, status.read(one)) == "stopped"
    assert [item.name for item in lifecycle.data(one)] == ["rows"]
    note = one.settings.folder / journal.IMPORT  # names a database that the next project has again
    note.write_text("{}")
    lifecycle.delete_data(one, Silent(), said.append)
    assert lifecycle.data(one) == () and not note.exists()


def test_what_is_encrypted_is_asked_for_where_the_database_was_there_before(
    one: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program starts for it, in the way of whoever waits; a database that the same start made has nothing in it."""
    asked: list[str] = []
    said = MemoryEngine._said

    def seen(engine: MemoryEngine, service: str, argv: tuple[str, ...], stdin: object) -> list[Any]:
        asked.extend(argv[1:2])
        return said(engine, service, argv, stdin)

    monkeypatch.setattr(MemoryEngine, "_said", seen)
    one.state.save()
    lifecycle.up(one, Silent(), lambda line: None)
    assert "sealed" not in asked
    del MemoryEngine.running[MLFLOW]
    lifecycle.up(one, Silent(), lambda line: None)
    assert "sealed" in asked


def test_a_service_that_went_is_started_again(up: Project) -> None:
    del MemoryEngine.running[MLFLOW]
    assert lifecycle.up(up, Silent(), lambda line: None).changed == (MLFLOW,)


def test_a_service_that_goes_while_it_is_looked_at_is_started_again(
    up: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed restore had just told the engine to stop it: it was up at the first look."""
    wait, looked = readiness.wait, []

    def first_sees_it_go(*arguments: Any, **named: Any) -> tuple[ServiceStatus, ...]:
        looked.append(named["changed"])
        if len(looked) == 1:
            del MemoryEngine.running[MLFLOW]
            raise ServiceFailed(MLFLOW, "mlflow is exited, exit code 0")
        return wait(*arguments, **named)

    monkeypatch.setattr(readiness, "wait", first_sees_it_go)
    assert lifecycle.up(up, Silent(), lambda line: None).changed == (MLFLOW,)
    assert looked == [False, True]


def test_services_whose_state_is_not_here_are_not_called_down(up: Project, tmp_path: Path) -> None:
    """Another person's of the same name on the same engine, or one's own whose state folder is gone."""
    stranger = project(tmp_path / "another home")
    stranger.state.engine = MemoryEngine.name
    assert not stranger.state.existed
    with pytest.raises(WrongProject, match="nothing was stopped: project .* is another person's") as caught:
        lifecycle.down(stranger, Silent(), lambda line: None)
    assert "invoke up" in caught.value.hint and set(MemoryEngine.running) == set(SERVICES)
    lifecycle.down(up, Silent(), lambda line: None)
    assert lifecycle.down(stranger, Silent(), lambda line: None) == ()


def test_check(up: Project) -> None:
    results = check.run_check(status.running(up), Silent())
    assert check.verdict(results) == f"all {len(results)} checks passed", results


def test_doctor(up: Project) -> None:
    result = {finding.check: finding for finding in doctor.examine(up)}
    assert result["engine"].detail == "memory (holds this project's data)"
    assert {"ports", "leftovers", "network", "proxy", "database", "permissions"} <= set(result)
    assert result["jobs"].detail.startswith("off: `invoke up --mlflow-jobs=on` ")
    assert not [f for name, f in result.items() if f.level is Level.ERROR and name not in ("platform", "docker")]


def test_status_makes_one_engine_and_asks_the_server_nothing(
    up: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    created: list[str] = []
    asked: list[tuple[str, ...]] = []
    make, run = select.make, MemoryEngine.exec

    def counted(project: Project, name: str) -> Engine:
        created.append(name)
        return make(project, name)

    monkeypatch.setattr(select, "make", counted)

    def noted(engine: MemoryEngine, service: str, argv: tuple[str, ...], *rest: Any, **more: Any) -> Any:
        asked.append(argv)
        return run(engine, service, argv, *rest, **more)

    said = {"enabled": True, "fallbacks": {}, "process": str(MemoryEngine.running["mlflow"])}
    up.state.applied["fast_path"] = said
    monkeypatch.setattr(MemoryEngine, "exec", noted)
    monkeypatch.setattr(options, "load", lambda given: up)
    assert status_task.status({}, "table", False) == 0
    assert created == ["memory"] and asked == []
    assert "MLflow's fast path: on" in capsys.readouterr().err


def test_doctor_is_asked_about_another_workspace(up: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running notebook can tell of the folder that it has, and of no other."""
    monkeypatch.setattr(MemoryEngine, "workspace_problem", lambda self: ("cannot be written", "chown it"))
    assert all(finding.detail != "cannot be written" for finding in doctor.examine(up))
    other = replace(up, settings=replace(up.settings, workspace=tmp_path))
    result = next(finding for finding in doctor.examine(other) if finding.check == "permissions")
    assert (result.level, result.detail) == (Level.ERROR, "cannot be written")


def test_it_is_taken_where_the_others_are_not_there(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    one.state.engine = ""
    for kind in (DockerEngine, EmbeddedEngine):
        monkeypatch.setattr(kind, "availability", lambda self: Availability(False, False, f"no {self.name} here", "x"))
    choice = select.choose(one)
    assert choice.engine.name == "memory"
    assert choice.notice == "engine: memory, because no docker here; no embedded here"
    monkeypatch.setattr(MemoryEngine, "availability", lambda self: Availability(False, False, "no memory", "buy some"))
    with pytest.raises(EngineUnavailable, match="memory engine cannot be used: no memory") as caught:
        select.choose(one)
    assert caught.value.hint == "buy some; or `invoke up --engine=embedded` to run without Docker"


def test_at_boot(up: Project) -> None:
    with pytest.raises(TrackbedError, match="the memory engine starts nothing at boot"):
        lifecycle.start_at_boot(up, True)
    assert lifecycle.start_at_boot(up, False) == ()


def test_doctor_names_what_another_engine_left(up: Project) -> None:
    folder = up.settings.folder / "embedded"
    folder.mkdir()
    result = [finding for finding in doctor.examine(up) if finding.check == "leftovers"]
    assert [finding.detail for finding in result] == [f"{folder} holds data of the embedded engine"]


def test_dry_run(one: Project) -> None:
    one.state.save()
    before = sorted(one.settings.folder.rglob("*")), replace(one.state)
    assert dry_run.script(one) == "".join(f"start {name}\n" for name in SERVICES)
    assert MemoryEngine.running == {} and (sorted(one.settings.folder.rglob("*")), one.state) == before
    assert dry_run.script(one, "lab") == dry_run.script(one)


def test_backup(up: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    manifest, _ = create.make(up, status.running(up), path, Silent())
    assert (manifest["engine"], manifest["objects"], manifest["mlflow"]) == ("memory", 1, "3.17.2")
    with tarfile.open(path) as tar:
        assert any(name.endswith("1/a.txt") for name in tar.getnames())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("adopt", "--adopt has no effect on the memory engine"),
        ("public", "PUBLIC=true needs the docker engine, or kubernetes, and this is memory"),
        ("init", "this project is on the memory engine"),
    ],
)
def test_what_it_cannot_do_is_refused_by_its_name(one: Project, tmp_path: Path, asked: str, words: str) -> None:
    one.state.save()
    with pytest.raises(TrackbedError, match=words):
        if asked == "public":
            created = project(tmp_path, public="true", public_address="203.0.113.7")
            created.state.engine = "memory"
            with pytest.raises(TrackbedError, match=words):
                dry_run.script(created)
            start.bring_up(created, Silent(), lambda line: None)
        elif asked == "adopt":
            start.bring_up(one, Silent(), lambda line: None, adopt=True)
        else:
            lifecycle.prepare(one, Silent(), lambda line: None)


def test_an_up_without_a_change_looks_at_the_services_once(up: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[tuple[ServiceStatus, ...]] = []
    services = MemoryEngine.services

    def look(engine: MemoryEngine, detail: bool = False) -> tuple[ServiceStatus, ...]:
        looks.append(services(engine, detail))
        return looks[-1]

    monkeypatch.setattr(MemoryEngine, "services", look)
    view = lifecycle.up(up, Silent(), lambda line: None)
    assert [tuple(row.status for row in view.rows)] == looks


def test_nobody_is_asked_for_a_bundle_that_is_not_there(up: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(kernels, "before_a_restart", lambda *_: asked.append(1))
    monkeypatch.setattr(MemoryEngine, "adopt", lambda engine: asked.append(2))
    del MemoryEngine.running[MLFLOW]
    up.bundle = up.settings.folder / "trackbed.bundle"
    with pytest.raises(TrackbedError, match=r"the bundle .*trackbed\.bundle cannot be opened: No such file"):
        start.bring_up(up, Silent(), lambda line: None)
    assert not asked


def beside(first: Project, name: str) -> Project:
    """A second project of the same clone and state folder, up."""
    flags = {"project": name, "state_dir": str(first.settings.state_dir)}
    settings = Settings.load(flags, {"HOME": str(first.settings.clone.parent)}, first.settings.env_file, {})
    second = Project(settings, Remembered.load(settings.folder))
    second.state.engine = MemoryEngine.name
    settings.workspace.mkdir(parents=True, exist_ok=True)
    second.state.save()
    lifecycle.up(second, Silent(), lambda line: None)
    return second


def meant(by: Project) -> str:
    """The project of a task that names none."""
    return Settings.load({}, {"HOME": str(by.settings.clone.parent)}, by.settings.env_file, {}).project


def deleted(one: Project) -> list[str]:
    said: list[str] = []
    lifecycle.down(one, Silent(), said.append)
    lifecycle.delete_data(one, Silent(), said.append)
    return said


def test_a_deleted_project_leaves_the_clone_to_the_one_that_runs_from_it(
    up: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = beside(up, "second")
    assert meant(up) == "second"
    monkeypatch.setenv("TRACKBED_PROJECT", "second")  # as the deletion may have named it
    assert "commands without --project are for project trackbed again, which runs from this clone" in deleted(second)
    assert meant(up) == "trackbed"
    monkeypatch.delenv("TRACKBED_PROJECT")
    second, third = beside(up, "second"), beside(up, "third")
    deleted(second)
    assert meant(up) == "third", "which was not deleted"
    second = beside(up, "second")
    assert not [line for line in deleted(second) if "again" in line] and meant(up) == "second", "two others"
    deleted(third)
    up.settings.env_file.write_text("PROJECT=mine\n")
    mine = beside(up, "mine")
    assert not [line for line in deleted(mine) if "again" in line], "the user's own word"
    up.settings.env_file.unlink()
    deleted(beside(up, "second"))
    assert meant(up) == "trackbed"
    deleted(up)
    assert meant(up) == "trackbed", "none other: its name and its backups stay where they were"


def test_the_clone_is_about_the_last_up_also_where_that_changed_nothing(up: Project) -> None:
    values, compose = up.settings.clone / generated.VALUES, up.settings.clone / generated.COMPOSE
    assert f"TRACKBED_STATE_DIR={up.settings.state_dir}" in values.read_text() and not compose.exists()
    written = values.read_bytes(), values.stat().st_mtime_ns, values.stat().st_ino
    assert lifecycle.up(up, Silent(), lambda line: None).changed == ()
    assert written == (values.read_bytes(), values.stat().st_mtime_ns, values.stat().st_ino)
    generated.write(up.settings.env_file, {"COMPOSE_FILE": "x.yaml", "COMPOSE_PROJECT_NAME": "b"})
    assert lifecycle.up(up, Silent(), lambda line: None).changed == ()
    assert values.read_bytes() == written[0] and not compose.exists()


def test_each_start_that_works_ends_what_a_failed_one_left(up: Project) -> None:
    """`restore`, `upgrade` and `move` bring up as well."""
    note = up.settings.folder / failed_start.FILE
    for service in (None, MLFLOW):
        note.write_text('{"GPU": "none"}')
        if service:
            del MemoryEngine.running[service]
        with lifecycle.changing(up, lambda line: None):
            start.bring_up(up, Silent(), lambda line: None)
        assert not note.exists()


def test_the_cloud_of_this_machine_tells_no_end_of_another_one(up: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryEngine, "in_cluster", True)
    up.settings = Settings.load({"state_dir": str(up.settings.state_dir), "lease_end": "auto"}, {}, Path(".env"), {})
    with pytest.raises(SettingError, match="--lease-end=auto asks the cloud of this machine") as caught:
        start.check(up, select.make(up, MemoryEngine.name))
    assert "name the date" in caught.value.hint


def test_doctor_tells_of_the_lease_also_without_an_engine(one: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(project: Project) -> None:
        raise TrackbedError("no engine can be chosen", "")

    one.settings = one.settings.reload({}, lease_end="2100-01-01T00:00Z")
    monkeypatch.setattr(select, "choose", none)
    assert any(finding.check == "lease" for finding in doctor.examine(one))
