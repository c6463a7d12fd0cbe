"""The environment check: a run logged from the notebook, looked for in every place it should have reached."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from helpers import database_pages, workspace
from helpers.engines.base import JUPYTER, MLFLOW, POSTGRES, Engine, ExecResult, ProgressReporter
from helpers.errors import TrackbedError
from helpers.gpu import advice, node_types, verify
from helpers.plurals import counted

SCRIPT = Path(__file__).with_name("notebook_check.py")
USER = "mlflow"
SKIPPED = "skipped: an earlier check failed"
ROWS = ("run in PostgreSQL", "parameters in PostgreSQL", "metrics in PostgreSQL", "tag in PostgreSQL")
OBJECT = "object in the store"
SAVED = "file saved in the workspace"
PAGES = "database's pages"
THEIRS = "its rows and its object"
TIDIED = "check's experiment deleted"
PREFIX = "trackbed-check"

# one statement, one JSON object; the id is checked to be hexadecimal before it gets in here
SQL = """SELECT json_build_object(
 'run', (SELECT status FROM runs WHERE run_uuid = '{run}'),
 'params', (SELECT json_object_agg(key, value) FROM params WHERE run_uuid = '{run}'),
 'metrics', (SELECT json_object_agg(key, n)
             FROM (SELECT key, count(*) AS n FROM metrics WHERE run_uuid = '{run}' GROUP BY key) AS m),
 'tags', (SELECT json_object_agg(key, value) FROM tags WHERE run_uuid = '{run}' AND key LIKE 'trackbed.%'))"""

# For good: this check's experiment, those of checks that were killed, and what earlier versions left in one of theirs
# (only runs with the check's tag). An experiment that holds anything else stays: its foreign keys say so.
GONE = """
SET client_min_messages = warning;
DO $do$
DECLARE
  found record;
  going varchar[];
BEGIN
  FOR found IN SELECT experiment_id, name FROM experiments WHERE name = '{name}' OR name = '{prefix}'
      OR (name ~ '^{prefix}-[0-9a-f]{{12}}$' AND creation_time < (extract(epoch FROM now()) - 3600) * 1000) LOOP
    BEGIN
      going := ARRAY(SELECT run_uuid FROM runs r WHERE experiment_id = found.experiment_id AND (
        found.name = '{name}' OR r.name = 'check-gpu' OR EXISTS (
          SELECT FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = 'trackbed.check')));
      DELETE FROM latest_metrics WHERE run_uuid = ANY (going);
      DELETE FROM metrics WHERE run_uuid = ANY (going);
      DELETE FROM params WHERE run_uuid = ANY (going);
      DELETE FROM tags WHERE run_uuid = ANY (going);
      DELETE FROM runs WHERE run_uuid = ANY (going);
      IF NOT EXISTS (SELECT FROM trace_info WHERE experiment_id = found.experiment_id)
          AND NOT EXISTS (SELECT FROM logged_models WHERE experiment_id = found.experiment_id) THEN
        DELETE FROM experiment_tags WHERE experiment_id = found.experiment_id;
        DELETE FROM experiments WHERE experiment_id = found.experiment_id;
      END IF;
    EXCEPTION WHEN foreign_key_violation THEN
      IF found.name = '{name}' THEN RAISE; END IF;
    END;
  END LOOP;
END $do$;
"""


@dataclass(frozen=True)
class CheckResult:
    """One line of the report."""

    name: str
    ok: bool | None  # None: could not be looked at here, ``detail`` says why
    detail: str = ""
    seconds: float = 0.0


def run_check(engine: Engine, progress: ProgressReporter) -> list[CheckResult]:
    """Log a run from inside the notebook, then look for its rows and its object.

    It is logged to an experiment of its own, which is gone for good afterwards, whatever failed.
    """
    name = f"{PREFIX}-{secrets.token_hex(6)}"
    try:
        results = _look(engine, progress, name)
    except BaseException:
        _tidy(engine, name)
        raise
    progress.step("Deleting what was logged")
    return [*results, _tidy(engine, name)]


def _look(engine: Engine, progress: ProgressReporter, name: str) -> list[CheckResult]:
    progress.step("Logging a run from inside the notebook")
    results, run = _in_notebook(engine, name)
    complete = "artifact_path" in run
    plan = engine.plan()
    if MLFLOW not in plan.names:
        uri = plan.service(JUPYTER).environment["MLFLOW_TRACKING_URI"]
        results.append(CheckResult(THEIRS, complete, f"not ours to look at: {uri} keeps them" if complete else SKIPPED))
    elif complete:
        progress.step("Looking for the run in PostgreSQL and for its artifact in the object store")
        results += _rows(engine, run)
        results.append(_object(engine, run))
    else:
        results += [CheckResult(row, False, SKIPPED) for row in (*ROWS, OBJECT)]
    results.append(_workspace(engine))
    if MLFLOW in plan.names:
        results.append(_pages(engine))
    return results + _gpus(engine, progress, name)


def verdict(results: Sequence[CheckResult]) -> str:
    """One line about all of them: "all 13 checks passed", or how many did not."""
    failed = sum(r.ok is False for r in results)
    untested = sum(r.ok is None for r in results)
    if failed:
        return f"{failed} of {len(results)} checks failed"
    if untested:
        return f"{len(results) - untested} of {len(results)} checks passed, {untested} could not be tested here"
    return f"all {len(results)} checks passed"


def _gpus(engine: Engine, progress: ProgressReporter, experiment: str) -> list[CheckResult]:
    """The GPUs from inside the notebook; nothing for a notebook without one."""
    if engine.accelerator.kind == node_types.NONE:
        return []
    progress.step("Computing on the GPU inside the notebook")
    try:
        lines, done = verify.inside(engine, quick=False, experiment=experiment)
    except TrackbedError as error:
        return [CheckResult("GPU can be opened", False, error.message)]
    if not lines:
        return [CheckResult("GPU can be opened", False, _last_line(done))]
    results = []
    for line in lines:
        detail = str(line["detail"])
        if line["ok"] is False and (known := advice.advice(detail)):
            detail = f"{known[0]}: {known[1]} ({detail})"
        results.append(CheckResult(str(line["check"]), line["ok"], detail, float(line["seconds"])))
    return results


def database(engine: Engine) -> str:
    """The database the tracking server is pointed to."""
    uri = engine.plan().service(MLFLOW).environment.get("MLFLOW_BACKEND_STORE_URI", "")
    return unquote(urlsplit(uri).path.lstrip("/")) or "mlflow"


def _exec(engine: Engine, service: str, argv: tuple[str, ...], stdin: bytes | None = None) -> ExecResult:
    """``engine.exec`` with an engine's refusal as a failed command: a check reports, it does not raise."""
    try:
        return engine.exec(service, argv, stdin=stdin, timeout=180)
    except TrackbedError as error:
        return ExecResult(1, "", error.message)


def _last_line(result: ExecResult) -> str:
    lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {result.code}, nothing printed"


def _json_lines(text: str) -> list[dict[str, Any]]:
    """The JSON objects among the lines; whatever a start-up file of the notebook prints is passed over."""
    result = []
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                result.append(value)
    return result


def _in_notebook(engine: Engine, name: str) -> tuple[list[CheckResult], Mapping[str, Any]]:
    began = time.monotonic()
    done = _exec(engine, JUPYTER, ("python", "-", name), SCRIPT.read_bytes())
    results: list[CheckResult] = []
    run: Mapping[str, Any] = {}
    for line in _json_lines(done.stdout):
        if "check" in line:
            results.append(
                CheckResult(
                    str(line["check"]),
                    line.get("ok") is True,
                    str(line.get("detail", "")),
                    float(line.get("seconds", 0)),
                )
            )
        elif re.fullmatch(r"[0-9a-f]{32}", str(line.get("run_id", ""))):
            run = line
    if not results or (done.code != 0 and all(result.ok for result in results)):
        results.append(
            CheckResult("Python runs in the notebook's environment", False, _last_line(done), time.monotonic() - began)
        )
        run = {} if "artifact_path" in run else run
    elif all(result.ok for result in results) and "artifact_path" not in run:
        results.append(CheckResult("the check tells its run", False, _last_line(done)))
    return results, run


def _rows(engine: Engine, run: Mapping[str, Any]) -> list[CheckResult]:
    began = time.monotonic()
    name = database(engine)
    done = _exec(
        engine,
        POSTGRES,
        (
            "psql",
            "-X",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            USER,
            "-d",
            name,
            "-c",
            " ".join(SQL.format(run=run["run_id"]).split()),
        ),
    )
    seconds = time.monotonic() - began
    result = _json_lines(done.stdout)
    if done.code != 0 or not result:
        return [
            CheckResult(ROWS[0], False, _last_line(done), seconds),
            *(CheckResult(row, False, SKIPPED) for row in ROWS[1:]),
        ]
    row = result[0]
    where = f"database {name}"
    state, params = row.get("run"), row.get("params") or {}
    metrics, tags = row.get("metrics") or {}, row.get("tags") or {}
    return [
        _compare(ROWS[0], state, "FINISHED", f"{where}, run {run['run_id']}", seconds),
        _compare(ROWS[1], params, run.get("params"), f"{where}, {counted(len(params), 'row')}"),
        _compare(ROWS[2], metrics, run.get("metrics"), f"{where}, {counted(sum(metrics.values()), 'row')}"),
        _compare(ROWS[3], tags, run.get("tags"), f"{where}, {counted(len(tags), 'row')}"),
    ]


def _compare(name: str, got: object, expected: object, detail: str, seconds: float = 0.0) -> CheckResult:
    if got is None or got == {}:
        return CheckResult(name, False, "not there", seconds)
    if got != expected:
        return CheckResult(name, False, f"logged {expected!r}, found {got!r}", seconds)
    return CheckResult(name, True, detail, seconds)


def _object(engine: Engine, run: Mapping[str, Any]) -> CheckResult:
    began = time.monotonic()
    path = str(run["artifact_path"])
    done = _exec(engine, MLFLOW, ("trackbed-mlflow", "object", path))
    seconds = time.monotonic() - began
    if done.code != 0:
        return CheckResult(OBJECT, False, _last_line(done), seconds)
    try:
        start = done.stdout.index("[")
        objects = json.loads(done.stdout[start:])
        sizes = {str(item.get("key") or item["path"]): int(item["size"]) for item in objects}
    except (ValueError, KeyError, TypeError, AttributeError):
        return CheckResult(OBJECT, False, f"not a list of objects: {_last_line(done)}", seconds)
    for key, size in sizes.items():
        if key == path or key.endswith("/" + path):
            if size != run.get("size"):
                detail = f"{key}: {size} bytes instead of {run.get('size')}"
                return CheckResult(OBJECT, False, detail, seconds)
            return CheckResult(OBJECT, True, f"{key}, {size} bytes", seconds)
    return CheckResult(OBJECT, False, f"no object {path}", seconds)


def _workspace(engine: Engine) -> CheckResult:
    """Whether notebooks can be saved. Folders in it that are closed may be meant to be: told, no failure."""
    began = time.monotonic()
    try:
        result = workspace.attempt(engine)
    except TrackbedError as error:
        return CheckResult(SAVED, False, error.message, time.monotonic() - began)
    detail = f"{result.problem}. {result.fix}" if result.problem else result.warning or str(engine.deployment.workspace)
    return CheckResult(SAVED, not result.problem, detail, time.monotonic() - began)


def _pages(engine: Engine) -> CheckResult:
    """Also when logging failed: a damaged page may be the reason."""
    began = time.monotonic()
    try:
        result = database_pages.look(engine, database(engine))
    except TrackbedError as error:
        return CheckResult(PAGES, None, error.message, time.monotonic() - began)
    detail = str(result) if result.ok else f"{result}. {result.fix}"
    return CheckResult(PAGES, result.ok, detail, time.monotonic() - began)


def _tidy(engine: Engine, name: str) -> CheckResult:
    """Through the server first, which removes the artifacts too; then its rows, which MLflow would keep as deleted."""
    began = time.monotonic()
    done = _exec(engine, JUPYTER, ("python", "-", "--delete", name), SCRIPT.read_bytes())
    lines = [line for line in _json_lines(done.stdout) if "check" in line]
    ok = done.code == 0 and bool(lines) and lines[-1].get("ok") is True
    detail = str(lines[-1].get("detail", "")) if lines else _last_line(done)
    if MLFLOW in engine.plan().names:
        gone = _exec(
            engine,
            POSTGRES,
            ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database(engine)),
            GONE.format(name=name, prefix=PREFIX).encode(),
        )
        ok, detail = ok and gone.code == 0, detail if gone.code == 0 else _last_line(gone)
    return CheckResult(TIDIED, ok, detail, time.monotonic() - began)
