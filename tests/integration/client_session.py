"""Run by the Python of a client, of any MLflow from 1.30 on: MLflow as people use it, what comes back as JSON.

MLFLOW_TRACKING_URI is all that it knows. Arguments: a name of its own, how many small files, bytes of the large one.
What differs from run to run (ids, times, users) is left out: two servers are equal when their lines are.
"""

import atexit
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import mlflow  # type: ignore[import-not-found]
from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

name, small, large = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = MlflowClient()
told: "dict[str, Any]" = {}
version = tuple(int(word) for word in mlflow.__version__.split(".")[:2])


def digest(path: str) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


def files(folder: str) -> "dict[str, str]":
    return {
        os.path.relpath(os.path.join(top, one), folder): digest(os.path.join(top, one))
        for top, _, names in os.walk(folder)
        for one in names
    }


def listed(run: str, path: "str | None" = None) -> "dict[str, int]":
    """All artifacts below a path, with their sizes."""
    found: dict[str, int] = {}
    for one in client.list_artifacts(run, path):
        found.update(listed(run, one.path) if one.is_dir else {one.path: one.file_size})
    return found


def download(run: str, path: str, target: str) -> str:
    os.makedirs(target, exist_ok=True)
    return str(client.download_artifacts(run, path, target))


def refused(call: "Callable[[], object]") -> "list[object]":
    """The error's code and whether it came at once: clients repeat what they take for the server's own fault."""
    began = time.time()
    try:
        call()
    except Exception as error:
        # an address that there is not: a plain server's page says "Not Found", ours names the reason
        text = str(error).replace("ENDPOINT_NOT_FOUND", "error code 404")
        known = ("RESOURCE_DOES_NOT_EXIST", "No such artifact", "error code 404")
        return [next((word for word in known if word in text), text[:200]), time.time() - began < 5]
    return ["no error", False]


work = tempfile.mkdtemp()
atexit.register(shutil.rmtree, work, ignore_errors=True)
tree = os.path.join(work, "tree")
for number in range(small):
    folder = os.path.join(tree, f"d{number % 20:02}", "ä b")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f"{number:04}.txt"), "w") as file:
        file.write("x" * number)
with open(os.path.join(work, "large.bin"), "wb") as binary:
    block = bytes(range(256)) * 4096
    for start in range(0, large, len(block)):
        binary.write(block[: large - start])

mlflow.set_experiment(name)
with mlflow.start_run(run_name="first") as active:
    run = active.info.run_id
    mlflow.log_params({"rate": 0.1, "words": "é ü 雪", "long": "x" * 250})
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_metrics({"zero": 0, "huge": 1e300})
    mlflow.set_tags({"kind": "a b", "note": "line\nline"})
    mlflow.log_text("hello", "a.txt")
    mlflow.log_dict({"a": [1, None]}, "folder/b.json")
    mlflow.log_artifacts(tree, "tree")
    mlflow.log_artifact(os.path.join(work, "large.bin"))
found = client.get_run(run)
told["run"] = [
    found.info.status,
    found.data.params,
    # the notebook logs those of the machine for runs that last longer than ten seconds
    {key: value for key, value in found.data.metrics.items() if not key.startswith("system/")},
    {key: value for key, value in found.data.tags.items() if not key.startswith("mlflow.")},
]
told["history"] = [[one.step, one.value] for one in client.get_metric_history(run, "loss")]
told["listed"] = listed(run)
told["large"] = digest(download(run, "large.bin", work + "/one")) == digest(os.path.join(work, "large.bin"))
told["tree"] = files(download(run, "tree", work + "/all")) == files(tree)
told["folder that is not there"] = [one.path for one in client.list_artifacts(run, "none")]
told["file that is not there"] = refused(lambda: download(run, "none.txt", work + "/none"))

try:
    import numpy  # type: ignore[import-not-found]
    from sklearn.linear_model import LinearRegression  # type: ignore[import-not-found]

    model = LinearRegression().fit(numpy.arange(6).reshape(6, 1), numpy.arange(6) * 2.0)
    with mlflow.start_run(run_name="second") as active:
        second = active.info.run_id
        mlflow.sklearn.log_model(model, "model", pip_requirements=["scikit-learn"])
    data = numpy.array([[10.0], [20.0]])
    told["model"] = [round(float(one), 6) for one in mlflow.pyfunc.load_model(f"runs:/{second}/model").predict(data)]
    if version >= (2, 0):
        made = mlflow.register_model(f"runs:/{second}/model", name)
        told["version"] = [str(made.version), client.get_model_version(name, made.version).status]
        told["registered"] = [
            round(float(one), 6) for one in mlflow.pyfunc.load_model(f"models:/{name}/1").predict(data)
        ]
        client.update_model_version(name, made.version, description="ours")
        told["description"] = client.get_model_version(name, made.version).description
    else:  # its registry is below /preview, which servers have left out since MLflow 2
        told["registry"] = refused(lambda: client.create_registered_model(name))
except ImportError as error:
    told["model"] = str(error)

experiment = client.get_experiment_by_name(name).experiment_id
client.delete_run(run)
told["deleted"] = sorted(one.data.tags["mlflow.runName"] for one in client.search_runs([experiment]))
client.restore_run(run)
told["restored"] = sorted(one.data.tags["mlflow.runName"] for one in client.search_runs([experiment]))
told["searched"] = [
    one.data.tags["mlflow.runName"]
    for one in client.search_runs(
        [experiment], "metrics.loss < 0.5 and tags.kind = 'a b'", order_by=["metrics.loss ASC"]
    )
]

if version >= (2, 15):

    def answer(question: str) -> str:
        return question + "!"

    mlflow.trace(answer)("a")
    if hasattr(mlflow, "flush_trace_async_logging"):
        mlflow.flush_trace_async_logging()
    traces = client.search_traces(experiment_ids=[experiment])
    told["traces"] = [[span.name, span.inputs, span.outputs] for trace in traces for span in trace.data.spans]

print("\n" + json.dumps(told, sort_keys=True))
