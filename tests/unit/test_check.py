"""The environment check against a fake engine: every answer a service can give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import database_pages
from helpers.checks import check
from helpers.engines.base import JUPYTER, MLFLOW, POSTGRES, Engine, ExecResult, Plan, ServiceSpec
from helpers.errors import TrackbedError
from helpers.gpu.accelerator import Accelerator

RUN = "0123456789abcdef0123456789abcdef"
PATH = f"1/{RUN}/artifacts/check/trackbed-check.bin"
TOLD = {
    "run_id": RUN,
    "experiment_id": "1",
    "artifact_path": PATH,
    "params": {"a": "1"},
    "metrics": {"loss": 3},
    "tags": {"trackbed.check": "n"},
    "size": 4096,
}
ROW = {"run": "FINISHED", "params": {"a": "1"}, "metrics": {"loss": 3}, "tags": {"trackbed.check": "n"}}

Answer = ExecResult | TrackbedError


def line(name: str, ok: bool = True) -> dict[str, Any]:
    return {"check": name, "ok": ok, "detail": "d", "seconds": 0.1}


def out(*objects: object, code: int = 0, noise: str = "") -> ExecResult:
    return ExecResult(code, noise + "".join(json.dumps(o) + "\n" for o in objects), "")


class FakeProgress:
    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def service(self, name: str, state: str, note: str = "") -> None: ...

    def amount(self, name: str, done: int, whole: int, note: str) -> None: ...

    def output(self, line: str) -> None: ...


class FakeEngine:
    """Answers by service; keeps what it was asked."""

    accelerator = Accelerator()
    workspace_inside = "/home/jovyan/work"
    settings = SimpleNamespace()
    deployment = SimpleNamespace(workspace=Path("/srv/work"))

    def workspace_fix(self) -> str:
        return "chown -hR 1000:100 /srv/work"

    def __init__(self, **answers: Answer) -> None:
        self.answers: dict[str, Answer] = {
            "notebook": out(line("tracking server answers"), line("run logged"), TOLD),
            "delete": out(line(check.TIDIED)),
            "postgres": out(ROW),
            "gone": out(),
            "workspace": out(),
            "mlflow": out([{"path": PATH, "size": 4096}]),
            **answers,
        }
        self.asked: list[tuple[str, tuple[str, ...], bytes | None]] = []

    def plan(self) -> Plan:
        uri = "postgresql+psycopg2://mlflow@postgres:5432/mlflow_2"
        return Plan("fake", "trackbed", (ServiceSpec(MLFLOW, "MLflow", environment={"MLFLOW_BACKEND_STORE_URI": uri}),))

    def exec(self, service: str, argv: tuple[str, ...], stdin: bytes | None = None, timeout: float = 120) -> ExecResult:
        self.asked.append((service, argv, stdin))
        in_notebook = "delete" if "--delete" in argv else "workspace" if argv[0] == "/bin/sh" else "notebook"
        in_database = "gone" if stdin else "postgres"
        name = {POSTGRES: in_database, MLFLOW: "mlflow"}.get(service, in_notebook)
        answer = self.answers[name]
        if isinstance(answer, TrackbedError):
            raise answer
        return answer


def run(engine: FakeEngine) -> dict[str, check.CheckResult]:
    results = check.run_check(cast(Engine, engine), FakeProgress())
    names = [result.name for result in results]
    assert len(set(names)) == len(names)
    return {result.name: result for result in results}


@pytest.fixture(autouse=True)
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_pages, "look", lambda engine, database: database_pages.Pages(True, 0, True, ()))


@pytest.mark.parametrize(
    ("found", "ok", "detail"),
    [
        (
            database_pages.Pages(
                True, 0, True, ("table metrics is damaged: block 3 of base/5/16400 does not match its checksum",)
            ),
            False,
            "table metrics is damaged: block 3 of base/5/16400",
        ),
        (database_pages.Pages(True, 2, True, ()), False, "2 pages did not match their checksum"),
        (database_pages.Pages(True, 0, False, ()), True, "too large to be read whole"),
        (database_pages.Pages(False, 0, True, ()), True, "made without checksums"),
    ],
)
def test_damaged_pages_are_named(
    monkeypatch: pytest.MonkeyPatch, found: database_pages.Pages, ok: bool, detail: str
) -> None:
    monkeypatch.setattr(database_pages, "look", lambda engine, database: found)
    result = run(FakeEngine())[check.PAGES]
    assert result.ok is ok and detail in result.detail
    assert ok or "invoke restore FILE" in result.detail


def test_all_pass() -> None:
    engine = FakeEngine()
    results = run(engine)
    assert all(result.ok for result in results.values()), results
    assert list(results) == [
        "tracking server answers",
        "run logged",
        *check.ROWS,
        check.OBJECT,
        check.SAVED,
        check.PAGES,
        check.TIDIED,
    ]
    assert [asked[0] for asked in engine.asked] == [JUPYTER, POSTGRES, MLFLOW, JUPYTER, JUPYTER, POSTGRES]
    *python, name = engine.asked[0][1]
    assert python == ["python", "-"] and re.fullmatch("trackbed-check-[0-9a-f]{12}", name)
    assert engine.asked[0][2] == check.SCRIPT.read_bytes()
    assert engine.asked[2][1] == ("trackbed-mlflow", "object", PATH)
    assert engine.asked[4][1] == ("python", "-", "--delete", name)
    assert f"name = '{name}'".encode() in (engine.asked[5][2] or b"")


def test_asks_the_database_the_server_is_pointed_to() -> None:
    engine = FakeEngine()
    run(engine)
    argv = engine.asked[1][1]
    assert argv[argv.index("-d") + 1] == "mlflow_2"
    assert argv[argv.index("-U") + 1] == "mlflow"
    assert "\n" not in argv[-1] and RUN in argv[-1]


def test_noise_of_the_notebook_is_passed_over() -> None:
    noise = "a profile says hello\n{not json\n"
    results = run(FakeEngine(notebook=out(line("run logged"), TOLD, noise=noise)))
    assert all(result.ok for result in results.values()), results


NOT_RUNNING = TrackbedError("jupyter is not running")


@pytest.mark.parametrize(
    ("answers", "failed", "detail"),
    [
        ({"notebook": NOT_RUNNING}, "Python runs in the notebook's environment", "jupyter is not running"),
        (
            {"notebook": ExecResult(127, "", "python: not found\n")},
            "Python runs in the notebook's environment",
            "python: not found",
        ),
        ({"notebook": ExecResult(0, "", "")}, "Python runs in the notebook's environment", "nothing printed"),
        (
            {"notebook": ExecResult(137, out(line("run logged")).stdout, "Killed\n")},
            "Python runs in the notebook's environment",
            "Killed",
        ),
        ({"notebook": out(line("run logged"))}, "the check tells its run", ""),
        (
            {"notebook": out(line("run logged"), {**TOLD, "run_id": "x'; DROP TABLE runs; --"})},
            "the check tells its run",
            "",
        ),
        (
            {"postgres": ExecResult(2, "", 'psql: error: FATAL: database "mlflow_2" does not exist\n')},
            "run in PostgreSQL",
            "does not exist",
        ),
        ({"postgres": TrackbedError("postgres is not running")}, "run in PostgreSQL", "postgres is not running"),
        ({"postgres": out({**ROW, "run": None})}, "run in PostgreSQL", "not there"),
        ({"postgres": out({**ROW, "run": "RUNNING"})}, "run in PostgreSQL", "RUNNING"),
        ({"postgres": out({**ROW, "params": None})}, "parameters in PostgreSQL", "not there"),
        ({"postgres": out({**ROW, "params": {"a": "2"}})}, "parameters in PostgreSQL", "'2'"),
        ({"postgres": out({**ROW, "metrics": {"loss": 2}})}, "metrics in PostgreSQL", "2"),
        ({"postgres": out({**ROW, "tags": None})}, "tag in PostgreSQL", "not there"),
        ({"mlflow": out([])}, "object in the store", f"no object {PATH}"),
        ({"mlflow": out([{"key": f"prefix/{PATH}.part", "size": 4096}])}, "object in the store", "no object"),
        ({"mlflow": out([{"key": PATH, "size": 1}])}, "object in the store", "1 bytes instead of 4096"),
        ({"mlflow": ExecResult(1, "", "NoSuchBucket\n")}, "object in the store", "NoSuchBucket"),
        ({"mlflow": ExecResult(0, "nonsense\n", "")}, "object in the store", "not a list"),
        ({"mlflow": TrackbedError("mlflow is not running")}, "object in the store", "mlflow is not running"),
        ({"delete": out({**line(check.TIDIED, ok=False), "detail": "503"}, code=1)}, check.TIDIED, "503"),
        ({"gone": ExecResult(3, "", "ERROR: deadlock detected\n")}, check.TIDIED, "deadlock"),
    ],
)
def test_failures(answers: dict[str, Answer], failed: str, detail: str) -> None:
    results = run(FakeEngine(**answers))
    assert not results[failed].ok
    assert detail in results[failed].detail
    other = [r for r in results.values() if not r.ok and r.name != failed]
    assert all(r.detail == check.SKIPPED for r in other), other
    assert not any("\n" in r.detail for r in results.values())


def test_a_failure_in_the_notebook_skips_the_rest_but_tidies_up() -> None:
    reported = out(line("run logged"), line("artifact logged", ok=False), {"run_id": RUN}, code=1)
    engine = FakeEngine(notebook=reported)
    results = run(engine)
    assert [asked[0] for asked in engine.asked] == [JUPYTER, JUPYTER, JUPYTER, POSTGRES]
    assert all(results[name].detail == check.SKIPPED for name in (*check.ROWS, check.OBJECT))
    assert results[check.TIDIED].ok


@pytest.mark.parametrize("answer", [out(line("tracking server answers", ok=False), code=1), out(), NOT_RUNNING])
def test_what_may_have_been_made_is_deleted_whatever_the_notebook_says(answer: Answer) -> None:
    """A script that was killed has told nothing, and its experiment may be there."""
    engine = FakeEngine(notebook=answer)
    assert run(engine)[check.TIDIED].ok
    assert [asked[0] for asked in engine.asked[-2:]] == [JUPYTER, POSTGRES]


def test_an_interrupted_check_deletes_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "_rows", interrupted)
    engine = FakeEngine()
    with pytest.raises(KeyboardInterrupt):
        run(engine)
    assert [asked[0] for asked in engine.asked] == [JUPYTER, JUPYTER, POSTGRES]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([True] * 13, "all 13 checks passed"),
        ([True, False, None, False], "2 of 4 checks failed"),
        ([True, None, True], "2 of 3 checks passed, 1 could not be tested here"),
    ],
)
def test_the_last_line_counts(states: list[bool | None], said: str) -> None:
    assert check.verdict([check.CheckResult(str(n), ok) for n, ok in enumerate(states)]) == said
