"""The box at the end of `up`: what is in it, and what is kept out of a log that others read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from helpers import notebook, status
from helpers.checks import doctor
from helpers.engines.base import MLFLOW, Port, ServiceStatus, State
from helpers.errors import TrackbedError
from helpers.findings import Level
from tests.unit.fakes import project

LINK, TOKEN = "http://127.0.0.1:8888/lab?token=", "mlflows-own-token"
START = "http://127.0.0.1:8000/start?token="


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    created = project(tmp_path)
    for name in ("SSH_CONNECTION", "SSH_TTY", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(status, "workspace", lambda project: "/srv/work")
    monkeypatch.setattr(notebook, "url", lambda engine, token: LINK + token)
    mlflow = ServiceStatus(MLFLOW, State.READY, ports=(Port("http", 8000, 8000),))
    view = status.Overview(
        "embedded",
        created.settings,
        (status.Row(mlflow, "MLflow", ("http://127.0.0.1:8000",)),),
        token=TOKEN,
        source=cast(Any, None),
    )
    return lambda **changes: dict(status.rows(created, replace(view, **changes)))


def test_links_files_and_what_to_type(rows: Any) -> None:
    result = rows()
    assert list(result) == ["Open", "Your files", "Next", "To stop"]
    assert result["Open"].startswith(START) and len(result["Open"]) > len(START) + 20
    assert TOKEN not in result["Open"]  # the notebook's opens both
    assert result["Your files"] == "/srv/work"
    assert result["Next"].endswith(" check") and result["To stop"].endswith(" down")


def test_no_token_goes_into_the_journal(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    assert not any("token" in text for text in rows().values())


def test_somebody_at_another_computer_gets_the_tunnel(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.9 50000 192.0.2.7 22")
    assert rows()["On your computer"].startswith("ssh -N -L 8000:127.0.0.1:8000 ")


def test_behind_the_gateway_the_page_is_everybodys_and_the_notebooks_link_is_not(rows: Any) -> None:
    result = rows(is_public=True)
    assert result["Open"] == "http://127.0.0.1:8000/start" and result["Notebook"].startswith(LINK)


def test_a_notebook_alone_is_what_is_opened(rows: Any) -> None:
    assert rows(rows=())["Open"].startswith(LINK)


def test_a_notebook_alone_that_is_not_up_has_no_link(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> str:
        raise TrackbedError("JupyterLab is not running")

    monkeypatch.setattr(notebook, "url", down)
    assert "Open" not in rows(rows=())


def test_what_ended_is_told_with_the_next_step() -> None:
    def told(*states: State) -> tuple[str, str]:
        reasons = {State.EXITED: "exit code 137", State.UNHEALTHY: "x" * 300}
        names = (MLFLOW, "postgres", "bucket")
        return status.trouble(
            ServiceStatus(name, state, reasons.get(state, "")) for name, state in zip(names, states, strict=True)
        )

    assert told(State.READY, State.RUNNING, State.DONE) == ("", "")
    wrong, step = told(State.STARTING, State.READY, State.DONE)
    assert (
        wrong == "mlflow is starting"
        and step.startswith("to start it, or wait for it: ")
        and step.endswith("invoke logs mlflow")
    )
    assert told(State.MISSING, State.MISSING, State.MISSING) == ("", ""), "after down"
    wrong, step = told(State.EXITED, State.READY, State.DONE)
    assert wrong == "mlflow is exited (exit code 137)"
    assert (
        step.startswith("to start it again: ")
        and "invoke up; to see why: " in step
        and step.endswith("invoke logs mlflow")
    )
    wrong, step = told(State.MISSING, State.UNHEALTHY, State.DONE)
    assert wrong == f"mlflow is missing; postgres is unhealthy ({'x' * 80})"
    assert "to start them again: " in step and step.endswith("invoke logs postgres")
    assert "again: " in told(State.STARTING, State.EXITED, State.DONE)[1]
    assert told(State.MISSING, State.READY, State.DONE)[1].endswith("invoke up"), "nothing is left that wrote a log"


def test_the_first_link_is_the_notebooks_only_with_a_reason(rows: Any, tmp_path: Path) -> None:
    def lacking(*statuses: ServiceStatus) -> str:
        listed = tuple(
            status.Row(one, one.name, ("http://127.0.0.1:8000",) if one.ports and one.up else ()) for one in statuses
        )
        view = status.Overview("docker", project(tmp_path).settings, listed, source=cast(Any, None))
        return status.without_start_page(view)

    up = ServiceStatus("jupyter", State.READY, ports=(Port("http", 8888, 8888),))
    server = ServiceStatus(MLFLOW, State.READY, ports=(Port("http", 8000, 8000),))
    assert not lacking(up) and not lacking(server, up)
    assert "is starting" in lacking(replace(server, state=State.STARTING), up), "it has an address, and no answer"
    said = lacking(replace(server, state=State.EXITED, ports=()), up)
    assert said.startswith("MLflow, which shows the start page, is exited; to start it again: ")


@pytest.mark.parametrize(
    ("states", "level", "detail"),
    [
        ((State.READY, State.DONE), Level.OK, "all 2 run"),
        ((State.STARTING, State.READY), Level.WARNING, "mlflow is starting"),
        ((State.EXITED, State.DONE), Level.ERROR, "mlflow is exited"),
    ],
)
def test_doctor_tells_of_a_service_that_ended(states: tuple[State, State], level: Level, detail: str) -> None:
    one = doctor._check_services([ServiceStatus(MLFLOW, states[0]), ServiceStatus("bucket", states[1])])
    assert [(found.check, found.level, found.detail) for found in one] == [("services", level, detail)]
    assert bool(one[0].fix) == (level is not Level.OK)


def test_doctor_says_nothing_of_the_services_of_a_project_that_is_down() -> None:
    assert doctor._check_services([ServiceStatus(MLFLOW, State.MISSING), ServiceStatus("bucket", State.MISSING)]) == []
