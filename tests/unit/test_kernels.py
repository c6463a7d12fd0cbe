"""What would end with JupyterLab is named, and asked about; a start that fails is not remembered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import durability, kernels, start
from helpers.checks import doctor
from helpers.engines import select, supervisor_config
from helpers.engines.base import JUPYTER, MLFLOW, Address, Engine, ProgressReporter
from helpers.engines.embedded.engine import EmbeddedEngine
from helpers.engines.host import LOCAL
from helpers.engines.supervisor_config import Program
from helpers.errors import Interrupted, TrackbedError
from helpers.http_request import Answer
from helpers.project import shell_environment
from helpers.project.state import State
from tests.unit.fakes import Silent, deployed, project

# the suite takes minutes between this line and the tests, and a terminal is idle after one
NOW, LONG_AGO = ((datetime.now(UTC) + timedelta(hours=hours)).isoformat() for hours in (3, -3))
SESSIONS = [
    {"path": "train.ipynb", "kernel": {"id": "1", "name": "python3", "execution_state": "busy"}},
    {"path": "notes.ipynb", "kernel": {"id": "2", "name": "python3", "execution_state": "idle"}},
]
KERNELS = [*(one["kernel"] for one in SESSIONS), {"id": "3", "name": "python3", "execution_state": "idle"}]
TERMINALS = [{"name": "1", "last_activity": NOW.replace("+00:00", "Z")}, {"name": "2", "last_activity": LONG_AGO}]


class FakeEngine(Engine):
    """A notebook; ``outdated``: `start` would restart it."""

    name = "embedded"
    host = LOCAL
    settings: Any = None

    def __init__(self, outdated: bool) -> None:
        self.outdated = outdated

    def notebook_outdated(self) -> bool:
        return self.outdated

    def prepare(self, progress: ProgressReporter) -> tuple[str, ...]:
        return ()

    def remarks(self) -> tuple[str, ...]:
        return ()

    @contextmanager
    def open(self, service: str, port: str) -> Iterator[Address]:
        yield Address("127.0.0.1", 8888)


def fake(outdated: bool = True) -> FakeEngine:
    return FakeEngine(outdated)  # type: ignore[abstract]  # the members that are asked here, no more


def answering(
    monkeypatch: pytest.MonkeyPatch, sessions: Any = SESSIONS, others: Any = KERNELS, terminals: Any = TERMINALS
) -> None:
    reported = {"sessions": sessions, "kernels": others, "terminals": terminals}
    monkeypatch.setattr(
        kernels, "ask", lambda url, timeout, token: Answer(200, json.dumps(reported[url.split("/")[-1]]))
    )


def test_everything_that_runs_is_named_busy_first(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    result = kernels.running(cast(Engine, fake()), "t")
    assert kernels.names(result) == (
        "train.ipynb (busy), terminal 1 (busy), notes.ipynb (idle), a kernel python3 (idle), terminal 2 (idle)"
    )


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "{}",
        '"x"',
        "[1, null]",
        "[" * 100_000,
        '[{"kernel": 1}]',
        '[{"kernel": {"id": {}}, "path": {"a": 1}, "last_activity": []}]',
    ],
)
def test_whatever_the_notebook_says_is_borne(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    monkeypatch.setattr(kernels, "ask", lambda url, timeout, token: Answer(200, body))
    assert "\n" not in kernels.names(kernels.running(cast(Engine, fake()), "t"))


def test_a_name_does_nothing_to_the_terminal_and_many_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, [{"path": f"a\x1b[2J{n}" * 40, "kernel": {"id": n}} for n in range(50)], [], [])
    line = kernels.names(kernels.running(cast(Engine, fake()), "t"))
    assert "\x1b" not in line and line.endswith(" and 42 more") and len(line) < 700


def before(tmp_path: Path, consent: kernels.Consent | None, engine: Engine | None = None) -> list[str]:
    said: list[str] = []
    kernels.before_a_restart(project(tmp_path), engine or cast(Engine, fake()), said.append, consent)
    return said


YES, NO = kernels.Consent(lambda question: True, True), kernels.Consent(lambda question: False, True)
NOBODY = kernels.Consent(lambda question: False, False)


def test_a_notebook_that_stays_as_it_is_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    assert before(tmp_path, NO, cast(Engine, fake(outdated=False))) == []


def test_an_update_that_leaves_the_notebooks_program_alone_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an earlier version noted of it: supervisord goes by its configuration."""
    answering(monkeypatch)
    engine = EmbeddedEngine(project(tmp_path))
    engine.project.state.applied["notebook"] = "noted by an earlier version"
    supervisor = engine.processes.supervisor
    supervisor.configuration.parent.mkdir(parents=True)

    def started(*programs: Program) -> None:
        text = supervisor_config.render(programs, supervisor.paths, supervisor.instance)
        supervisor.configuration.write_text(text)

    now = engine.specs.program(JUPYTER)
    monkeypatch.setattr(supervisor, "running", lambda: True)
    monkeypatch.setattr(EmbeddedEngine, "open", lambda *_: nullcontext(Address("127.0.0.1", 8888)))
    assert "train.ipynb (busy)" in before(tmp_path, YES, engine)[0], "nothing is known of what was started"
    started(replace(engine.specs.program(MLFLOW), folder="/elsewhere"), now)
    assert before(tmp_path, NOBODY, engine) == []
    started(replace(now, environment=dict(sorted(now.environment.items(), reverse=True))))
    assert before(tmp_path, NOBODY, engine) == [], "the first start has the shell's variables in the shell's order"
    started(replace(now, environment={**now.environment, "TRACKBED_PERSON": "another"}))
    assert "train.ipynb (busy)" in before(tmp_path, YES, engine)[0]


def test_somebody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    assert "train.ipynb (busy)" in before(tmp_path, YES)[0]
    with pytest.raises(TrackbedError, match="nothing was changed"):
        before(tmp_path, NO)


def test_without_a_terminal_busy_kernels_end_only_with_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch)
    with pytest.raises(TrackbedError, match=r"train.ipynb \(busy\).*nothing was changed") as caught:
        before(tmp_path, NOBODY)
    assert "--yes" in caught.value.hint
    assert "train.ipynb (busy)" in before(tmp_path, None)[0]
    answering(monkeypatch, SESSIONS[1:], [], TERMINALS[1:])
    assert "notes.ipynb (idle)" in before(tmp_path, NOBODY)[0], "idle ones are named"


def test_another_shell_changes_nothing_of_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    state = State(tmp_path, engine="embedded")
    started = state.surroundings = shell_environment.applied(state)
    assert started["TZ"] == "Europe/Berlin" and shell_environment.differ(state) == ""
    state.save()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.delenv("HTTPS_PROXY")
    again = State.load(tmp_path)
    assert shell_environment.applied(again) == started
    line = shell_environment.differ(again)
    assert line.startswith("HTTPS_PROXY, TZ: ") and "`invoke down`, then `invoke up`" in line and "3128" not in line
    again.surroundings = None  # as after `down`
    assert shell_environment.applied(again)["TZ"] == "Asia/Tokyo" and shell_environment.differ(again) == ""


def test_an_earlier_version_kept_no_surroundings(tmp_path: Path) -> None:
    State(tmp_path).save()
    assert "surroundings" not in (tmp_path / "state.json").read_text()
    assert State.load(tmp_path).surroundings is None


@pytest.mark.parametrize(
    ("error", "kept"), [(TrackbedError("no"), False), (OSError("full"), False), (Interrupted("Ctrl-C"), True)]
)
def test_what_a_failed_start_was_told_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kept: bool
) -> None:
    one = project(tmp_path, engine="embedded", cull_idle="2h", mlflow_port="8100", jupyter_port="8889")
    one.state.remembered = {"MLFLOW_PORT": "8000"}

    def fail(*_: object) -> None:
        raise error

    engine = fake()
    engine.settings, engine.deployment = one.settings, deployed(one.settings, "folder")
    monkeypatch.setattr(select, "choose", lambda project: SimpleNamespace(engine=engine, notice=""))
    monkeypatch.setattr(doctor, "preflight", lambda engine, settings: None)
    monkeypatch.setattr(durability, "promise", lambda engine: "")
    monkeypatch.setattr(kernels, "before_a_restart", lambda *_: None)
    monkeypatch.setattr(start, "_choose_ports", lambda *_: {"JUPYTER_PORT": "8889"})
    monkeypatch.setattr(start, "leave_in_clone", lambda *_: None)
    monkeypatch.setattr(start, "_start", fail)
    said: list[str] = []
    with pytest.raises(type(error)):
        start.bring_up(one, Silent(), said.append)
    state = State.load(one.settings.folder)
    assert state.engine == "embedded"
    if kept:
        assert state.remembered["CULL_IDLE"] == "2h" and state.remembered["MLFLOW_PORT"] == "8100"
    else:
        assert state.remembered == {"MLFLOW_PORT": "8000", "JUPYTER_PORT": "8889"}, "what is up already has that port"
        assert state.surroundings is None
        assert "not remembered, because this start failed: CULL_IDLE, ENGINE, MLFLOW_PORT" in said[-1]
