"""`invoke gc` frees everything of what was deleted, and nothing that a registered version or a living run needs."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import requests

from tests.conftest import Clone
from tests.integration import inspection
from tests.integration.test_backup import api, experiment

SIZE = 1000  # bytes of each artifact here


def files(clone: Clone, path: str) -> str:
    return f"{clone.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/{path}"


def held(clone: Clone, path: str) -> bool:
    answer = requests.get(files(clone, path), timeout=60)
    assert answer.status_code in (200, 404) or "No such" in answer.text, answer.text
    return answer.status_code == 200


class Maker:
    """Runs, models and traces of an experiment, each with one artifact, whose path is given."""

    def __init__(self, clone: Clone, chosen: str) -> None:
        self.clone, self.experiment = clone, chosen

    def _put(self, path: str) -> str:
        requests.put(files(self.clone, path), data=b"x" * SIZE, timeout=60).raise_for_status()
        return path

    def run(self) -> tuple[str, str]:
        run = api(self.clone, "runs/create", "POST", experiment_id=self.experiment, start_time=1)["run"]["info"]
        return run["run_id"], self._put(f"{self.experiment}/{run['run_id']}/artifacts/model/weights")

    def model(self, run: str) -> tuple[str, str]:
        created = api(self.clone, "logged-models", "POST", experiment_id=self.experiment, name="m", source_run_id=run)
        model = created["model"]["info"]["model_id"]
        return model, self._put(f"{self.experiment}/models/{model}/artifacts/weights")

    def trace(self) -> tuple[str, str]:
        identity = f"tr-{uuid.uuid4().hex}"
        info = {
            "trace_id": identity,
            "request_time": "2026-01-01T00:00:00Z",
            "state": "OK",
            "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": self.experiment}},
        }
        requests.post(
            f"{self.clone.url('mlflow')}/api/3.0/mlflow/traces", json={"trace": {"trace_info": info}}, timeout=60
        ).raise_for_status()
        return identity, self._put(f"{self.experiment}/traces/{identity}/artifacts/traces.json")

    def version(self, source: str, **more: str) -> dict[str, Any]:
        name = f"registered {uuid.uuid4().hex}"
        api(self.clone, "registered-models/create", "POST", name=name)
        return dict(api(self.clone, "model-versions/create", "POST", name=name, source=source, **more)["model_version"])

    def delete(self, *runs: str) -> None:
        for run in runs:
            api(self.clone, "runs/delete", "POST", run_id=run)


def used(clone: Clone) -> dict[str, dict[str, Any]]:
    return {use["identity"]: use for use in json.loads(clone.value("usage", "--format=json"))["experiments"]}


def test_models_and_traces_of_what_was_deleted(deployment: Clone) -> None:
    living, doomed, registered = (Maker(deployment, experiment(deployment)) for _ in range(3))
    gone, stays = [], []
    # runs of an experiment that stays
    kept, path = living.run()
    _, model = living.model(kept)
    stays += [path, model, living.trace()[1]]
    plain, path = living.run()
    gone += [path, living.model(plain)[1]]
    with_version, path = living.run()
    model, weights = living.model(with_version)
    living.version(f"mlflow-artifacts:/{living.experiment}/models/{model}/artifacts", model_id=model)
    gone, stays = [*gone, path], [*stays, weights]
    of_run, path = living.run()
    living.version(f"mlflow-artifacts:/{living.experiment}/{of_run}/artifacts/model", run_id=of_run)
    stays.append(path)
    evaluated, path = living.run()
    model, weights = living.model(evaluated)
    requests.post(
        f"{deployment.url('mlflow')}/api/2.0/mlflow/runs/log-inputs",
        timeout=60,
        json={"run_id": kept, "models": [{"model_id": model}]},
    ).raise_for_status()
    gone, stays = [*gone, path], [*stays, weights]
    trace, path = living.trace()
    requests.post(
        f"{deployment.url('mlflow')}/api/3.0/mlflow/traces/delete-traces",
        timeout=60,
        json={"experiment_id": living.experiment, "request_ids": [trace]},
    ).raise_for_status()
    gone.append(path)
    living.delete(plain, with_version, of_run, evaluated)
    # a whole experiment, and one of which somebody registered a model
    run, path = doomed.run()
    gone += [path, doomed.model(run)[1], doomed.trace()[1], doomed._put(f"{doomed.experiment}/notes.txt")]
    run, path = registered.run()
    model, weights = registered.model(run)
    version = registered.version(f"models:/{model}", model_id=model)
    gone, stays = [*gone, path, registered.model(run)[1]], [*stays, weights]
    data = {"name": "d", "digest": "1", "source_type": "local", "source": "{}"}
    for one in (kept, doomed.run()[0]):
        api(
            deployment,
            "runs/log-inputs",
            "POST",
            run_id=one,
            datasets=[{"tags": [{"key": "k", "value": "v"}], "dataset": data}],
        )
    for created in (doomed, registered):
        api(deployment, "experiments/delete", "POST", experiment_id=created.experiment)
    time.sleep(1.1)

    before = used(deployment)
    assert before[doomed.experiment]["deleted"] == before[doomed.experiment]["size"] == 5 * SIZE
    assert before[living.experiment]["deleted"] == 5 * SIZE
    shown = deployment.invoke("gc", "--older-than=1s")
    assert "deleted runs and models stay" in shown.stderr and all(held(deployment, path) for path in (*gone, *stays))
    rows = {line.split()[0]: line.split()[1:4] for line in shown.stdout.splitlines()[1:]}
    assert rows[living.experiment] == ["3", "1", "5"] and rows[doomed.experiment] == ["2", "1", "5"], shown.stdout
    done = deployment.invoke("gc", "--older-than=1s", "--yes")
    assert done.returncode == 0 and "removed: " in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert [path for path in gone if held(deployment, path)] == []
    assert [path for path in stays if not held(deployment, path)] == []
    assert doomed.experiment not in used(deployment) and used(deployment)[living.experiment]["deleted"] == 0
    for table, of in (
        ("inputs", "SELECT FROM runs WHERE run_uuid = destination_id OR destination_type <> 'RUN'"),
        ("input_tags", "SELECT FROM inputs WHERE inputs.input_uuid = input_tags.input_uuid"),
    ):
        assert inspection.psql(deployment, f"SELECT count(*) FROM {table} WHERE NOT EXISTS ({of})").strip() == "0", (
            table
        )
    assert api(deployment, f"runs/get?run_id={kept}")["run"]["inputs"]["dataset_inputs"][0]["tags"]
    result = api(deployment, "model-versions/get", name=version["name"], version=version["version"])["model_version"]
    assert result["status"] == "READY"
    assert "nothing was deleted longer ago" in deployment.invoke("gc", "--older-than=1s").stderr
