"""Run by the Python of an old client (MLflow 1.30 to 3.0): runs, models and what else it knows, as people log them.

    write_source.py FOLDER STEPS

makes FOLDER/mlruns (a file store) and FOLDER/mlflow.db with FOLDER/mlartifacts, and FOLDER/expected.json: what this
client's own API says of both. STEPS: values of the longest history.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from typing import Any

# before MLflow is imported: newer ones have retired the file store, and write traces later than they say
os.environ.update({"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false"})

import mlflow  # type: ignore[import-not-found]
from mlflow.entities import ViewType  # type: ignore[import-not-found]
from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

VERSION = tuple(int(word) for word in mlflow.__version__.split(".")[:2])
TEXT = "ünïcode 漢字 🙂"


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input


def write(client: Any, artifacts: str | None, steps: int) -> None:
    """All that is logged. ``artifacts``: where the experiments' artifacts go, None for the store's own place."""

    def experiment(name: str) -> Any:
        return client.create_experiment(name, artifact_location=artifacts and artifacts + "/" + name[:3])

    mlflow.set_tracking_uri(client._tracking_client.tracking_uri)
    first, second, gone = experiment("one " + TEXT), experiment("two"), experiment("gone")
    client.set_experiment_tag(first, "note", "line 1\nline 2 " + TEXT)
    parent = client.create_run(first, run_name="parent") if VERSION >= (2, 0) else client.create_run(first)
    run = parent.info.run_id
    for key, value in {"lr": "0.1", "text": TEXT, "empty": "", "a/b.c-d": "x" * 400}.items():
        client.log_param(run, key, value)
    for key, value in {"t": TEXT, "multi": "a\nb\n", "slash/tag": "s"}.items():
        client.set_tag(run, key, value)
    for begin in range(0, steps, 500):
        block = [
            mlflow.entities.Metric("loss", n % 97 / 97, 1600000000000 + n, n)
            for n in range(begin, min(begin + 500, steps))
        ]
        client.log_batch(run, metrics=block)
    for step, odd in enumerate((float("nan"), float("inf"), float("-inf"), 1e-300, -0.5)):
        client.log_metric(run, "odd", odd, timestamp=1600000000000, step=step)
    for _ in range(2):
        client.log_metric(run, "twice", 0.5, timestamp=1600000000000, step=1)
    client.log_metric(run, "back", 2.0, timestamp=1600000000001, step=5)
    client.log_metric(run, "back", 1.0, timestamp=1600000000002, step=3)
    client.log_text(run, "content " + TEXT, "notes/" + "datei ü.txt")
    client.log_text(run, "", "empty.txt")
    client.log_dict(run, {"a": [1, 2, TEXT]}, "data.json")
    client.set_terminated(run)
    for number in range(3):
        child = client.create_run(first, tags={"mlflow.parentRunId": run, "n": str(number)}).info.run_id
        client.log_metric(child, "loss", number)
        client.set_terminated(child, ["FINISHED", "FAILED", "KILLED"][number])
    deleted = client.create_run(second).info.run_id
    client.log_param(deleted, "p", "of a deleted run")
    client.delete_run(deleted)
    client.create_run(second)  # goes on running
    lost = client.create_run(gone).info.run_id
    client.log_param(lost, "p", "of a deleted experiment")
    client.log_text(lost, "kept", "kept.txt")
    client.delete_experiment(gone)
    log_model(client, second)
    if VERSION >= (2, 9):
        log_dataset(second)
    if VERSION >= (2, 20):
        log_traces(client, second)
    if VERSION >= (3, 0):
        client.register_prompt("prompt", "Say {{what}} " + TEXT) if hasattr(client, "register_prompt") else None


def log_model(client: Any, experiment: Any) -> None:
    with mlflow.start_run(experiment_id=experiment) as active:
        named = {"name": "model"} if VERSION >= (3, 0) else {"artifact_path": "model"}
        mlflow.pyfunc.log_model(python_model=Model(), pip_requirements=["mlflow"], **named)
        uri = "runs:/" + active.info.run_id + "/model"
    if VERSION < (2, 0) and not client._tracking_client.tracking_uri.startswith("sqlite"):
        return  # its file store has no registry
    client.create_registered_model("registered", tags={"team": TEXT}, description="about " + TEXT)
    source = active.info.artifact_uri + "/model"
    version = client.create_model_version("registered", source, active.info.run_id, tags={"v": "1"})
    client.create_model_version(
        "registered", uri if VERSION >= (2, 0) else source, active.info.run_id, description="second"
    )
    if VERSION >= (2, 3):
        client.set_registered_model_alias("registered", "champion", version.version)
    if VERSION < (3, 0):
        client.transition_model_version_stage("registered", version.version, "Production")


def log_dataset(experiment: Any) -> None:
    import pandas  # type: ignore[import-untyped]

    frame = pandas.DataFrame({"x": [1, 2, 3], "y": ["a", "b", TEXT]})
    with mlflow.start_run(experiment_id=experiment):
        mlflow.log_input(
            mlflow.data.from_pandas(frame, source="/data/" + TEXT + ".csv", name="table"), context="training"
        )


def log_traces(client: Any, experiment: Any) -> None:
    mlflow.set_experiment(experiment_id=experiment)

    @mlflow.trace(name="outer")  # type: ignore[untyped-decorator]
    def outer(question: str) -> str:
        with mlflow.start_span(name="inner") as span:
            span.set_inputs({"question": question})
            span.set_outputs({"answer": TEXT})
        return TEXT

    outer("what?")
    if hasattr(mlflow, "flush_trace_async_logging"):
        mlflow.flush_trace_async_logging()
    if VERSION >= (3, 2):  # before, only Databricks has assessments
        from mlflow.entities import AssessmentSource

        identity = mlflow.get_last_active_trace_id()
        mlflow.log_feedback(
            trace_id=identity, name="good", value=True, rationale=TEXT, source=AssessmentSource("HUMAN", "ann")
        )
        mlflow.log_expectation(trace_id=identity, name="answer", value="42", source=AssessmentSource("HUMAN", "bob"))


def number(value: Any) -> str:
    return repr(float(value))


def says(client: Any, folder: str) -> dict[str, Any]:
    """What the client's own API says, as plain data; experiments by name, runs by id."""
    search = client.search_experiments if hasattr(client, "search_experiments") else client.list_experiments
    result: dict[str, Any] = {"experiments": {}, "runs": {}, "models": {}, "traces": {}}
    names = {}
    for one in search(view_type=ViewType.ALL):
        names[one.experiment_id] = one.name
        result["experiments"][one.name] = {"stage": one.lifecycle_stage, "tags": dict(one.tags)}
    for run in client.search_runs(list(names), run_view_type=ViewType.ALL):
        run = client.get_run(run.info.run_id)  # a search of 3.0 leaves out the models
        result["runs"][run.info.run_id] = of_run(client, run, names)
    registry = VERSION >= (2, 0) or client._tracking_client.tracking_uri.startswith("sqlite")
    for model in client.search_registered_models() if registry else []:
        result["models"][model.name] = of_model(client, model)
    for trace in client.search_traces(list(names)) if hasattr(client, "search_traces") else []:
        result["traces"][getattr(trace.info, "trace_id", None) or trace.info.request_id] = of_trace(trace, names)
    return result


def of_run(client: Any, run: Any, names: Any) -> dict[str, Any]:
    info, data = run.info, run.data
    histories = {}
    for key in data.metrics:
        values = [[number(m.value), m.timestamp, m.step] for m in client.get_metric_history(info.run_id, key)]
        histories[key] = [
            list(one) for one in sorted({tuple(one) for one in values}, key=lambda one: (one[1], one[2], one[0]))
        ]
    inputs = getattr(run, "inputs", None)
    return {
        "experiment": names[info.experiment_id],
        "name": data.tags.get("mlflow.runName"),
        "status": info.status,
        "stage": info.lifecycle_stage,
        "start": info.start_time,
        "end": info.end_time,
        "params": dict(data.params),
        "tags": dict(data.tags),
        "latest": {key: number(value) for key, value in data.metrics.items()},
        "metrics": histories,
        "datasets": sorted(
            [one.dataset.name, one.dataset.digest, one.dataset.source, sorted([tag.key, tag.value] for tag in one.tags)]
            for one in (inputs.dataset_inputs if inputs else [])
        ),
        "models": sorted(one.model_id for one in getattr(getattr(run, "outputs", None), "model_outputs", None) or []),
        "artifacts": files_below(info.artifact_uri),
    }


def of_model(client: Any, model: Any) -> dict[str, Any]:
    versions = {}
    for one in client.search_model_versions("name = '" + model.name + "'"):
        versions[str(one.version)] = {
            "run": one.run_id or "",
            "tags": dict(one.tags),
            "description": one.description or "",
            "stage": one.current_stage,
            "status": one.status,
        }
    return {
        "description": model.description or "",
        "tags": dict(model.tags),
        "aliases": {key: str(value) for key, value in dict(getattr(model, "aliases", None) or {}).items()},
        "versions": versions,
    }


def of_trace(trace: Any, names: Any) -> dict[str, Any]:
    return {
        "experiment": names[trace.info.experiment_id],
        "status": str(getattr(trace.info.status, "value", trace.info.status)),
        "spans": sorted([span.name, json.dumps(span.inputs), json.dumps(span.outputs)] for span in trace.data.spans),
        "assessments": sorted(
            [one.name, json.dumps(one.value), one.rationale or "", one.source.source_id]
            for one in getattr(trace.info, "assessments", None) or []
        ),
    }


def files_below(uri: str) -> dict[str, str]:
    folder = uri.replace("file://", "")
    if not os.path.isdir(folder):  # of a deleted experiment
        folder = folder.replace("/mlruns/", "/mlruns/.trash/")
    result = {}
    for top, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(top, name)
            with open(path, "rb") as stream:
                result[os.path.relpath(path, folder)] = hashlib.sha256(stream.read()).hexdigest()
    return result


def main(folder: str, steps: int) -> None:
    warnings.simplefilter("ignore")
    os.makedirs(folder)
    os.chdir(folder)
    expected: dict[str, Any] = {"mlflow": mlflow.__version__}
    for kind, uri, artifacts in (
        ("folder", folder + "/mlruns", None),
        ("sqlite", "sqlite:///" + folder + "/mlflow.db", folder + "/mlartifacts"),
    ):
        client = MlflowClient(uri)
        write(client, artifacts, steps)
        expected[kind] = says(client, folder)
    with open("expected.json", "w", encoding="utf-8") as stream:
        json.dump(expected, stream, indent=1, sort_keys=True)


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]), int(sys.argv[2]))
