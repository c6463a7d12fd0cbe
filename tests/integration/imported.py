"""What a project's API says, in the words of tests/data/imports/write_source.py, which asked an old client."""

from __future__ import annotations

import copy
import json
import math
import os
import tarfile
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.data.imports import make
from tests.integration.snapshot import Server

DATA = Path(os.environ.get("TRACKBED_IMPORT_SOURCES") or ROOT / "tests" / "data" / "imports")
MADE = make.MADE
VERSIONS = tuple(make.CLIENTS)
ORIGINAL = "trackbed.source_experiment_id"
# what a client of today adds to an experiment or a run that it reads
COMPUTED = ("mlflow.experimentKind",)
Said = dict[str, Any]


def unpack(version: str, folder: Path) -> tuple[Path, Said]:
    """The source that a client of that version made, below ``folder``, and what that client says of it."""
    with tarfile.open(DATA / f"{version}.tar.xz") as tar:
        tar.extractall(folder)
    path = folder / version
    return path, json.loads((path / "expected.json").read_text("utf-8"))


def said(server: Server) -> Said:
    result: Said = {"experiments": {}, "runs": {}, "models": {}, "traces": {}}
    for experiment in list(server.pages("experiments/search", "experiments", view_type="ALL", max_results=1000)):
        name, identity = experiment["name"], experiment["experiment_id"]
        tags = {
            tag["key"]: tag["value"] for tag in experiment.get("tags", []) if tag["key"] not in (ORIGINAL, *COMPUTED)
        }
        result["experiments"][name] = {"stage": experiment["lifecycle_stage"], "tags": tags}
        found = server.pages("runs/search", "runs", experiment_ids=[identity], run_view_type="ALL", max_results=1000)
        result["runs"] |= {run["info"]["run_id"]: _run(server, run, name) for run in found}
        where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": identity}}]
        for trace in server.pages("traces/search", "traces", "3.0", locations=where, max_results=100):
            result["traces"][trace["trace_id"]] = _trace(server, trace, name)
    for model in server.pages("registered-models/search", "registered_models", max_results=100):
        result["models"][model["name"]] = _model(server, model)
    return result


def _run(server: Server, run: Said, experiment: str) -> Said:
    info, data = run["info"], run["data"]
    tags = {tag["key"]: tag["value"] for tag in data.get("tags", [])}
    histories = {}
    for metric in data.get("metrics", []):
        values = server.pages(
            "metrics/get-history", "metrics", run_id=info["run_id"], metric_key=metric["key"], max_results=25000
        )
        listed = {(_number(one["value"]), int(one["timestamp"]), int(one.get("step", 0))) for one in values}
        histories[metric["key"]] = [list(one) for one in sorted(listed, key=lambda one: (one[1], one[2], one[0]))]
    root = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
    return {
        "experiment": experiment,
        "name": tags.get("mlflow.runName"),
        "status": info["status"],
        "stage": info["lifecycle_stage"],
        "start": info.get("start_time"),
        "end": info.get("end_time"),
        "params": {one["key"]: one["value"] for one in data.get("params", [])},
        "tags": tags,
        "latest": {one["key"]: _number(one["value"]) for one in data.get("metrics", [])},
        "metrics": histories,
        "datasets": sorted(
            [
                one["dataset"]["name"],
                one["dataset"]["digest"],
                one["dataset"]["source"],
                sorted([tag["key"], tag["value"]] for tag in one.get("tags", [])),
            ]
            for one in run.get("inputs", {}).get("dataset_inputs", [])
        ),
        "models": sorted(one["model_id"] for one in run.get("outputs", {}).get("model_outputs", [])),
        "artifacts": {path.removeprefix(f"{root}/"): server.sha256(path) for path, _ in server.files(root)},
    }


def _number(value: Any) -> str:
    number = float(value)
    if math.isinf(number):  # a database has the largest number in its place, and so has the server's answer
        number = math.copysign(1.7976931348623157e308, number)
    return repr(number)


def _model(server: Server, model: Said) -> Said:
    versions = {}
    where = f"name = '{model['name']}'"
    for one in server.pages("model-versions/search", "model_versions", filter=where, max_results=100):
        versions[one["version"]] = {
            "run": one.get("run_id", ""),
            "tags": {tag["key"]: tag["value"] for tag in one.get("tags", [])},
            "description": one.get("description", ""),
            "stage": one.get("current_stage"),
            "status": one["status"],
        }
    return {
        "description": model.get("description", ""),
        "tags": {tag["key"]: tag["value"] for tag in model.get("tags", [])},
        "aliases": {one["alias"]: one["version"] for one in model.get("aliases", [])},
        "versions": versions,
    }


def _trace(server: Server, trace: Said, experiment: str) -> Said:
    """The spans come as a client downloads them: from the artifacts of the trace."""
    tags = trace.get("tags", {})
    root = tags.get("mlflow.artifactLocation", "").removeprefix("mlflow-artifacts:/")
    spans: list[Said] = []
    if tags.get("mlflow.trace.spansLocation") == "TRACKING_STORE":
        spans = server.get("traces/get", "3.0", trace_id=trace["trace_id"])["trace"]["spans"]
    else:
        spans = server.call("GET", server.artifact(f"{root}/traces.json")).json()["spans"]
    return {
        "experiment": experiment,
        "status": trace["state"],
        "spans": sorted(one["name"] for one in spans),
        "assessments": sorted(
            [
                one["assessment_name"],
                json.dumps(one.get("feedback", one.get("expectation"))["value"]),
                one.get("rationale", ""),
                one["source"]["source_id"],
            ]
            for one in trace.get("assessments", [])
        ),
    }


def plain(expected: Said) -> Said:
    """What an old client said, in the words of a server of today: where MLflow itself answers otherwise."""
    expected = copy.deepcopy(expected)
    for run in expected["runs"].values():
        for key in run["latest"]:
            run["latest"][key] = _number(run["latest"][key])
        for key, values in run["metrics"].items():
            listed = {(_number(one[0]), one[1], one[2]) for one in values}
            run["metrics"][key] = [list(one) for one in sorted(listed, key=lambda one: (one[1], one[2], one[0]))]
    for trace in expected["traces"].values():
        trace["spans"] = sorted(span[0] for span in trace["spans"])
    return expected


def beside(expected: Said, here: Said) -> Said:
    """The same in a project that has ``here``: what has a name that is taken there got another one."""
    names = {name: f"{name}-imported" if name in here["experiments"] else name for name in expected["experiments"]}
    models = {f"{name}-imported" if name in here["models"] else name: one for name, one in expected["models"].items()}
    return {
        "experiments": {names[name]: one for name, one in expected["experiments"].items() if name != "Default"},
        "models": models,
        **{
            kind: {key: {**one, "experiment": names[one["experiment"]]} for key, one in expected[kind].items()}
            for kind in ("runs", "traces")
        },
    }


def differences(expected: Said, found: Said) -> list[str]:
    """One line for each field that is not the same."""
    result = []
    for kind in ("experiments", "runs", "models", "traces"):
        for name in sorted(expected[kind].keys() | found[kind].keys()):
            one, other = expected[kind].get(name), found[kind].get(name)
            if one is None or other is None:
                result.append(f"{kind} {name}: {one and 'there'} -> {other and 'there'}")
                continue
            result += [
                f"{kind} {name}, {key}: {str(one.get(key))[:300]} -> {str(other.get(key))[:300]}"
                for key in sorted(one.keys() | other.keys())
                if one.get(key) != other.get(key)
            ]
    return result
