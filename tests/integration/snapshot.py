"""Every answer of a tracking server's API as plain data: two projects hold the same when their snapshots are equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import requests

UNORDERED = ("aliases", "dataset_inputs", "inputs", "latest_versions", "metrics", "params", "registrations", "tags")
PAGE = 1000


class Server:
    """A tracking server's REST API. ``url`` has no slash at its end; every call is bounded."""

    def __init__(self, url: str) -> None:
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False  # the server is never behind the machine's proxy

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        answer = self.session.request(method, f"{self.url}/{path}", **{"timeout": 300, **options})
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer

    def get(self, path: str, api: str = "2.0", **params: Any) -> dict[str, Any]:
        return dict(self.call("GET", f"api/{api}/mlflow/{path}", params=params).json())

    def post(self, path: str, api: str = "2.0", method: str = "POST", **body: Any) -> dict[str, Any]:
        return dict(self.call(method, f"api/{api}/mlflow/{path}", json=body).json())

    def pages(self, path: str, key: str, api: str = "2.0", **question: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list that comes in pages."""
        token: dict[str, str] = {}
        while True:
            if path.endswith("search") and not path.startswith(("registered-models", "model-versions")):
                answer = self.post(path, api, **question, **token)
            else:
                answer = self.get(path, api, **question, **token)
            yield from answer.get(key, [])
            if not answer.get("next_page_token"):
                return
            token = {"page_token": answer["next_page_token"]}

    def artifact(self, path: str) -> str:
        """The address of an artifact below the root of all."""
        return f"api/2.0/mlflow-artifacts/artifacts/{quote(path)}"

    def sha256(self, path: str) -> str:
        sha = hashlib.sha256()
        with self.call("GET", self.artifact(path), stream=True) as answer:
            for chunk in answer.iter_content(2**20):
                sha.update(chunk)
        return sha.hexdigest()

    def files(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Path and size of every artifact of all experiments."""
        result = self.call("GET", "api/2.0/mlflow-artifacts/artifacts", params={"path": folder} if folder else {})
        for item in result.json().get("files", []):
            path = f"{folder}/{item['path']}" if folder else item["path"]
            if item.get("is_dir"):
                yield from self.files(path)
            else:
                yield path, int(item.get("file_size", 0))


def plain(value: Any, key: str = "") -> Any:
    """An answer with the lists in order that have none; NaN, which equals nothing, as a word."""
    if isinstance(value, dict):
        return {name: plain(item, name) for name, item in value.items()}
    if isinstance(value, list):
        items = [plain(item) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True)) if key in UNORDERED else items
    return "NaN" if value != value else value


def _runs(server: Server, experiment: str) -> Iterator[tuple[str, Any]]:
    for run in server.pages(
        "runs/search",
        "runs",
        experiment_ids=[experiment],
        run_view_type="ALL",
        max_results=PAGE,
        order_by=["attributes.run_id"],
    ):
        identity = run["info"]["run_id"]
        yield f"found run {identity}", run
        yield f"run {identity}", server.get("runs/get", run_id=identity)
        yield f"artifacts {identity}", server.get("artifacts/list", run_id=identity)
        for key in sorted(metric["key"] for metric in run["data"].get("metrics", [])):
            history = list(server.pages("metrics/get-history", "metrics", run_id=identity, metric_key=key))
            yield f"history {identity} {key}", history
            bulk = server.call(
                "GET",
                "ajax-api/2.0/mlflow/metrics/get-history-bulk",
                params={"run_id": identity, "metric_key": key, "max_results": 25000},
            )
            yield f"bulk history {identity} {key}", bulk.json()


def _traces(server: Server, experiment: str) -> Iterator[tuple[str, Any]]:
    where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}]
    for trace in server.pages("traces/search", "traces", "3.0", locations=where, max_results=100):
        identity = trace["trace_id"]
        yield f"found trace {identity}", trace
        yield f"trace {identity}", server.get(f"traces/{identity}", "3.0")
        yield f"spans {identity}", server.get("traces/get", "3.0", trace_id=identity)


def _registry(server: Server) -> Iterator[tuple[str, Any]]:
    for model in server.pages("registered-models/search", "registered_models", max_results=100):
        name = model["name"]
        yield f"found model {name}", model
        yield f"model {name}", server.get("registered-models/get", name=name)
        for alias in model.get("aliases", []):
            yield (
                f"alias {name} {alias['alias']}",
                server.get("registered-models/alias", name=name, alias=alias["alias"]),
            )
    for version in server.pages("model-versions/search", "model_versions", max_results=100):
        where = {"name": version["name"], "version": version["version"]}
        yield f"found version {where}", version
        yield f"version {where}", server.get("model-versions/get", **where)
        yield f"source {where}", server.get("model-versions/get-download-uri", **where)


def _answers(server: Server) -> Iterator[tuple[str, Any]]:
    experiments = list(server.pages("experiments/search", "experiments", view_type="ALL", max_results=PAGE))
    for experiment in experiments:
        identity = experiment["experiment_id"]
        yield f"found experiment {identity}", experiment
        yield f"experiment {identity}", server.get("experiments/get", experiment_id=identity)
        yield from _runs(server, identity)
        yield from _traces(server, identity)
        for model in server.pages("logged-models/search", "models", experiment_ids=[identity], max_results=50):
            yield f"logged model {model['info']['model_id']}", server.get(f"logged-models/{model['info']['model_id']}")
        yield (
            f"datasets {identity}",
            server.call(
                "POST", "ajax-api/2.0/mlflow/experiments/search-datasets", json={"experiment_ids": [identity]}
            ).json(),
        )
    for dataset in server.pages("datasets/search", "datasets", "3.0"):
        yield f"dataset {dataset['dataset_id']}", dataset
        yield f"records {dataset['dataset_id']}", server.get(f"datasets/{dataset['dataset_id']}/records", "3.0")
    yield from _registry(server)
    for path, size in server.files():
        yield f"artifact {path}", [size, server.sha256(path)]


def take(url: str) -> dict[str, Any]:
    """What each question is answered with."""
    result: dict[str, Any] = {}
    for question, answer in _answers(Server(url)):
        assert question not in result, f"twice: {question}"
        result[question] = plain(answer)
    return result


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each answer that is not the same."""
    return [
        f"{question}: {str(before.get(question))[:300]} -> {str(after.get(question))[:300]}"
        for question in sorted(before.keys() | after.keys())
        if before.get(question) != after.get(question)
    ]
