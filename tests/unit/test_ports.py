"""Ports that are chosen where the defaults are taken, and those that no service may have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import addresses, ports, start
from helpers.checks import doctor
from helpers.engines.base import Plan, Port, ServiceSpec, ServiceStatus, State
from helpers.engines.host import LocalHost
from helpers.findings import Level
from helpers.project.project import Project
from helpers.project.state import State as Remembered
from helpers.settings import BY_NAME, Settings
from tests.unit.fakes import deployed


class Busy(LocalHost):
    """A machine on which these ports are taken."""

    def __init__(self, *taken: int) -> None:
        self.taken = taken

    def is_free(self, address: str, port: int) -> bool:
        return port not in self.taken

    def holder(self, port: int) -> str:
        return "python (process 7)"


def settings(folder: Path, **environ: str) -> Settings:
    return Settings.load({}, {"TRACKBED_STATE_DIR": str(folder / "state"), **environ}, folder / "clone" / ".env", {})


def planned(told: Settings) -> list[tuple[str, Port]]:
    return [
        ("mlflow", Port("http", 8000, told.mlflow_port, "127.0.0.1")),
        ("jupyter", Port("http", 8888, told.jupyter_port, "127.0.0.1")),
    ]


def test_the_next_free_ones_of_a_second_user(tmp_path: Path) -> None:
    reported = settings(tmp_path)
    mlflow, jupyter = reported.mlflow_port, reported.jupyter_port
    chosen, line = ports.free_instead(reported, planned(reported), (), Busy(mlflow, mlflow + 1, jupyter))
    assert chosen == {"MLFLOW_PORT": str(mlflow + 2), "JUPYTER_PORT": str(jupyter + 1)}
    again = reported.reload(chosen)
    assert (again.mlflow_port, again.jupyter_port) == (mlflow + 2, jupyter + 1)
    assert "\n" not in line
    assert f"{mlflow + 2} for MLFLOW_PORT ({mlflow} is taken by python (process 7))" in line
    assert line.endswith("; kept from now on, until `invoke up` with --mlflow-port=8000 --jupyter-port=8888")
    assert all(BY_NAME[name].of_up for name in ports.SETTINGS.values())
    assert ports.free_instead(reported, planned(reported), (), Busy()) == ({}, "")


def test_the_ports_that_are_advised_are_each_free_for_one(tmp_path: Path) -> None:
    """All of the advice can be typed at once, also where the project's ports lie side by side."""
    chosen = {"TRACKBED_MLFLOW_PORT": "8100", "TRACKBED_JUPYTER_PORT": "8101", "TRACKBED_S3_PORT": "8102"}
    told = settings(tmp_path, **chosen)
    found = doctor.check_ports(told, planned(told), (), {}, Busy(8100, 8101))
    assert [finding.fix.rpartition("=")[2].strip("`") for finding in found] == ["8103", "8104"]


def test_what_was_chosen_and_what_is_ours_stays(tmp_path: Path) -> None:
    reported = settings(tmp_path, TRACKBED_MLFLOW_PORT="8123")
    running = ServiceStatus("jupyter", State.READY, ports=(Port("http", 8888, reported.jupyter_port, "127.0.0.1"),))
    assert ports.free_instead(reported, planned(reported), (running,), Busy(8123, reported.jupyter_port)) == ({}, "")


def test_two_services_do_not_get_the_same(tmp_path: Path) -> None:
    reported = settings(tmp_path)
    close = [("mlflow", Port("http", 1, 8000, "")), ("jupyter", Port("http", 1, 8001, ""))]
    chosen, _ = ports.free_instead(reported, close, (), Busy(8000, 8001))
    assert chosen == {"MLFLOW_PORT": "8002", "JUPYTER_PORT": "8003"}


def test_ports_below_1024(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "start").write_text("80\n")
    assert addresses.first_unprivileged(str(tmp_path / "start")) == 80
    assert addresses.first_unprivileged(str(tmp_path / "none")) == 1024
    reported = settings(tmp_path, TRACKBED_MLFLOW_PORT="443")
    result = doctor.check_privileged(planned(reported), 1024)
    assert [cast(str, f.level) for f in result] == [Level.ERROR]
    assert "port 443 (MLFLOW_PORT) is below 1024" in result[0].detail and "--mlflow-port=" in result[0].fix


def engine(settings: Settings, *taken: int) -> Any:
    """One that runs nothing yet, where these ports are taken."""
    published = {
        "mlflow": {"http": settings.mlflow_port},
        "jupyter": {"http": settings.jupyter_port},
        "store": {"s3": settings.s3_port, "console": settings.s3_console_port},
    }
    services = tuple(
        ServiceSpec(
            service,
            service,
            (service,),
            ports=tuple(Port(name, port, port, "127.0.0.1") for name, port in named.items()),
        )
        for service, named in published.items()
    )
    plan = Plan("docker", settings.project, services)
    return SimpleNamespace(
        settings=settings,
        deployment=deployed(settings),
        host=Busy(*taken),
        plan=lambda: plan,
        services=lambda: (),
        plan_anew=lambda: None,
    )


def chosen_for(settings: Settings, *taken: int, aside: bool = False) -> tuple[Project, dict[str, str]]:
    """The project after ports were chosen, and what it remembers."""
    project = Project(settings, Remembered.load(settings.folder), aside=aside)
    chosen = start._choose_ports(project, engine(settings, *taken), lambda line: None)
    project.state.remember({**chosen, **project.settings.explicit})
    return project, chosen


@pytest.mark.parametrize("name", ["MLFLOW_PORT", "JUPYTER_PORT", "S3_PORT", "S3_CONSOLE_PORT"])
@pytest.mark.parametrize("place", ["flag", "variable", ".env"])
def test_a_chosen_port_counts_where_an_empty_value_asks_for_the_default(tmp_path: Path, name: str, place: str) -> None:
    env_file = tmp_path / "clone" / ".env"
    env_file.parent.mkdir()
    env_file.write_text(f"{name}=\n" if place == ".env" else "")
    reported = Settings.load(
        {"state_dir": str(tmp_path / "state"), **({name.lower(): ""} if place == "flag" else {})},
        {f"TRACKBED_{name}": ""} if place == "variable" else {},
        env_file,
        {},
    )
    held = getattr(reported, name.lower())
    project, chosen = chosen_for(reported, held)
    assert list(chosen) == [name] and int(chosen[name]) != held
    assert getattr(project.settings, name.lower()) == int(chosen[name])
    assert project.state.remembered[name] == chosen[name]


def test_the_project_beside_the_clones_own_stays_that_project(tmp_path: Path) -> None:
    beside = settings(tmp_path).reload({}, project="two")
    project, chosen = chosen_for(beside, beside.mlflow_port, aside=True)
    assert chosen and project.settings.project == "two" and project.settings.folder.name == "two"
    assert project.settings.mlflow_port == int(chosen["MLFLOW_PORT"])


def test_a_move_keeps_its_engine_and_its_store(tmp_path: Path) -> None:
    reported = settings(tmp_path).reload({"ENGINE": "embedded"}, engine="docker", object_store="versitygw")
    project, chosen = chosen_for(reported, 9000, 9001)
    assert set(chosen) == {"S3_PORT", "S3_CONSOLE_PORT"}
    assert (project.settings.engine, project.settings.object_store) == ("docker", "versitygw")
    assert project.settings.s3_port == int(chosen["S3_PORT"])
