"""The environment check, from inside the notebook's own environment: log a run, read it back.

Fed to that environment's Python on stdin by ``invoke check``; needs mlflow and nothing of Trackbed.
One JSON line a check: {"check", "ok", "detail", "seconds"}. When all passed, a last line tells the run:
{"run_id", "experiment_id", "artifact_path", "params", "metrics", "tags", "size"}.

    python notebook_check.py EXPERIMENT            run the check in a new experiment of that name
    python notebook_check.py --delete EXPERIMENT   remove the artifacts, mark runs and experiment as deleted
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

# answers within seconds or not at all; MLflow's own 7 retries of up to 120 s would hang the check
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"
os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "20"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # stdout is the protocol
os.environ["TRACKBED_BROWSER_URL"] = ""
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

TAG = "trackbed.check"
DELETED = "check's experiment deleted"
FILE = "check/trackbed-check.bin"
PARAMS = {"learning_rate": "0.01", "model": "none, this is a check"}
LOSS = (0.9, 0.5, 0.25)
SKIPPED = "skipped: an earlier check failed"


def reason(error: BaseException) -> str:
    """What went wrong, on one short line: the innermost cause says more than the retries around it."""
    if isinstance(error, ModuleNotFoundError):
        return f"no module {error.name} in this Python ({sys.executable})"
    text = " ".join(str(error).split()) or type(error).__name__
    cause = re.search(r"Failed to resolve '[^']+'|Connection refused|timed out", text)
    if cause:
        return f"{os.environ.get('MLFLOW_TRACKING_URI', 'the tracking server')}: {cause.group(0)}"
    return text[:300]


class Check:
    """The steps and what they hand on to the next one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nonce = uuid.uuid4().hex
        self.payload = os.urandom(4096)
        self.client: Any = None
        self.experiment_id = ""
        self.run_id = ""
        self.artifact_uri = ""

    def imports(self) -> str:
        import mlflow  # type: ignore[import-not-found]

        return f"MLflow {mlflow.__version__}, Python {sys.version.split()[0]}"

    def server(self) -> str:
        from mlflow import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri.startswith(("http://", "https://")):
            raise RuntimeError("MLFLOW_TRACKING_URI is not set to a server's address here")
        self.client = MlflowClient(uri)
        self.client.search_experiments(max_results=1)  # goes through to the database
        return uri

    def experiment(self) -> str:
        self.experiment_id = self.client.create_experiment(self.name)
        return f"experiment {self.name}"

    def log(self) -> str:
        run = self.client.create_run(self.experiment_id, run_name=f"check-{self.nonce[:8]}")
        self.run_id, self.artifact_uri = run.info.run_id, run.info.artifact_uri
        for key, value in PARAMS.items():
            self.client.log_param(self.run_id, key, value)
        for step, loss in enumerate(LOSS):
            self.client.log_metric(self.run_id, "loss", loss, step=step)
        self.client.set_tag(self.run_id, TAG, self.nonce)
        return f"run {self.run_id}: {len(PARAMS)} parameters, {len(LOSS)} steps of a metric, a tag"

    def store(self) -> str:
        folder, name = FILE.split("/")
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, name)
            path.write_bytes(self.payload)
            self.client.log_artifact(self.run_id, str(path), folder)
        self.client.set_terminated(self.run_id)
        return f"{len(self.payload)} bytes"

    def read(self) -> str:
        run = self.client.get_run(self.run_id)
        same("parameters", dict(run.data.params), PARAMS)
        same("the tag", run.data.tags.get(TAG), self.nonce)
        history = self.client.get_metric_history(self.run_id, "loss")
        same(
            "metric history", [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)], list(enumerate(LOSS))
        )
        same("the run's state", run.info.status, "FINISHED")
        return "parameters, metric history and tag are the same"

    def fetch(self) -> str:
        with tempfile.TemporaryDirectory() as temporary:
            data = Path(self.client.download_artifacts(self.run_id, FILE, temporary)).read_bytes()
        same("bytes", len(data), len(self.payload))
        if data != self.payload:
            raise RuntimeError("the artifact came back with other bytes")
        return f"{len(data)} bytes are the same"

    def result(self) -> dict[str, Any]:
        # mlflow-artifacts:/EXPERIMENT/RUN/artifacts: after the scheme, the path below the store's prefix
        root = re.sub(r"^[a-z-]+:/*(?://[^/]*/)?", "", self.artifact_uri).strip("/")
        return {
            "run_id": self.run_id,
            "experiment_id": self.experiment_id,
            "artifact_path": f"{root}/{FILE}",
            "params": PARAMS,
            "metrics": {"loss": len(LOSS)},
            "tags": {TAG: self.nonce},
            "size": len(self.payload),
        }


def same(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise RuntimeError(f"{what}: logged {expected!r}, read back {got!r}")


def emit(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def report(name: str, ok: bool, detail: str, began: float) -> None:
    emit({"check": name, "ok": ok, "detail": detail, "seconds": round(time.monotonic() - began, 3)})


def main(name: str) -> int:
    check = Check(name)
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("mlflow can be imported", check.imports),
        ("tracking server answers", check.server),
        ("experiment made", check.experiment),
        ("run logged", check.log),
        ("artifact logged", check.store),
        ("run read back", check.read),
        ("artifact read back", check.fetch),
    )
    failed = False
    for name, step in steps:
        began = time.monotonic()
        detail = SKIPPED
        if not failed:
            try:
                detail = step()
            except Exception as error:
                failed, detail = True, reason(error)
        report(name, not failed, detail, began)
    if not failed:
        emit(check.result())
    elif check.run_id:
        emit({"run_id": check.run_id})  # half a run is there, to be deleted
    return 1 if failed else 0


def delete(name: str) -> int:
    """Remove the artifacts, mark runs and experiment as deleted, as the UI would; their rows go in the database."""
    began = time.monotonic()
    try:
        from mlflow import MlflowClient
        from mlflow.store.artifact import (  # type: ignore[import-not-found]
            artifact_repository_registry as repositories,
        )

        client = MlflowClient()
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            report(DELETED, True, "nothing was made", began)
            return 0
        runs = client.search_runs([experiment.experiment_id])
        try:
            for run in runs:
                repositories.get_artifact_repository(run.info.artifact_uri).delete_artifacts(FILE.split("/")[0])
        finally:
            client.delete_experiment(experiment.experiment_id)  # and its runs
    except Exception as error:
        report(DELETED, False, reason(error), began)
        return 1
    report(DELETED, True, f"experiment {name}, {len(runs)} run{'s' * (len(runs) != 1)}", began)
    return 0


if __name__ == "__main__":
    sys.exit(delete(sys.argv[2]) if sys.argv[1] == "--delete" else main(sys.argv[1]))
