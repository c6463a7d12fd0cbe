"""Runs inside the tracking server's Python: the same requests to Trackbed's application, with or without the fast path.

Arguments: the database's address, the folder of our modules. Prints {"state": ..., "answers": [[what, status, body]],
"table": ...}; ids, and times that the server takes, are replaced by words.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from typing import Any

URI, MODULES = sys.argv[1:]
sys.path.insert(0, MODULES)
os.environ |= {
    "_MLFLOW_SERVER_FILE_STORE": URI,
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "s3://none/live",
    "TRACKBED_OWN_TMP": tempfile.mkdtemp(),
}
API = "/api/2.0/mlflow/"
names: dict[str, str] = {}
answers: list[tuple[str, int, str]] = []


def plain(text: str) -> str:
    text = re.sub(r"\b[0-9a-f]{32}\b", lambda m: names.setdefault(m[0], f"ID{len(names)}"), text)
    return re.sub(r'("(?:creation_time|last_update_time|end_time)": )"?\d+"?', r"\1TIME", text)


def ordered(found: Any) -> Any:
    """Metrics, parameters and tags by name: MLflow promises no order of them."""
    if isinstance(found, dict):
        return {name: ordered(value) for name, value in found.items()}
    if isinstance(found, list):
        named = all(isinstance(one, dict) and "key" in one for one in found)
        return sorted(map(ordered, found), key=json.dumps) if named else [ordered(one) for one in found]
    return found


async def request(app: Any, method: str, path: str, body: Any = None, query: str = "") -> Any:
    sent = json.dumps(body).encode() if isinstance(body, dict) else body or b""
    head: dict[str, Any] = {}
    parts: list[bytes] = []
    incoming: list[dict[str, Any]] = [{"type": "http.request", "body": sent, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not incoming:
            await asyncio.Event().wait()  # the client stays connected and sends nothing more
        return incoming.pop()

    async def send(message: dict[str, Any]) -> None:
        head.update({} if message["type"].endswith("body") else message)
        parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(sent)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    await app(scope, receive, send)
    text = b"".join(parts).decode()
    kind = dict(head["headers"]).get(b"content-type", b"").decode()
    if kind == "application/json" and not path.endswith(("-interval", "/graphql")):  # points are in one order
        text = json.dumps(ordered(json.loads(text)), indent=2)
    said = json.dumps(body) if isinstance(body, dict) else str(body)
    answers.append((plain(f"{method} {path} {query} {said}"), head["status"], f"{kind} {plain(text)}"))
    return json.loads(text) if head["status"] == 200 and text else {}


async def requests(app: Any) -> None:
    async def post(route: str, **body: Any) -> Any:
        return await request(app, "POST", API + route, body)

    experiment = (await post("experiments/create", name="compared"))["experiment_id"]
    runs = []
    for number in range(4):
        created = await post("runs/create", experiment_id=experiment, start_time=number, run_name=f"r{number}")
        runs.append(created["run"]["info"]["run_id"])
    for step, value in enumerate((0.5, -0.0, 1e300, "NaN", "Infinity", "-Infinity", 3, "x", None)):
        for run in runs[:2]:
            await post("runs/log-metric", run_id=run, key="loss", value=value, timestamp=step, step=step % 3)
    metrics = [{"key": k, "value": i / 7, "timestamp": i, "step": i % 4} for i, k in enumerate("abcab" * 20)]
    for run in runs[2:]:
        await post("runs/log-batch", run_id=run, metrics=metrics, params=[{"key": "p", "value": "1"}], tags=[])
    await post("runs/log-batch", run_id=runs[0], metrics=[{"key": "", "value": 1, "timestamp": 1, "step": 1}])
    await post("runs/log-batch", run_id="0" * 32, metrics=metrics)
    await post("runs/log-parameter", run_id=runs[0], key="p", value="1")
    await post("runs/log-parameter", run_id=runs[0], key="p", value="2")
    await post("runs/set-tag", run_id=runs[0], key="t", value='ü\u2028"')
    await post("runs/delete", run_id=runs[3])
    await post("runs/log-metric", run_id=runs[3], key="loss", value=1, timestamp=1)
    for words in ({}, {"filter": "metrics.a > 1"}, {"filter": "params.p = '1'"}, {"filter": "nonsense >"}):
        for order in ([], ["metrics.loss DESC"], ["start_time ASC"]):
            await post("runs/search", experiment_ids=[experiment], order_by=order, run_view_type="ALL", **words)
    for run in (*runs, "none"):
        await request(app, "GET", f"{API}runs/get", query=f"run_id={run}")
        await request(app, "GET", f"{API}metrics/get-history", query=f"run_id={run}&metric_key=loss")
    ids = "&".join(f"run_ids={run}" for run in (*runs[::-1], runs[0], "none"))
    for more in ("", "&max_results=2", "&start_step=0&end_step=1", "&start_step=1", "&max_results=0", "&end_step=x"):
        for key in ("loss", "a", "none", "a%20%22quote%22"):
            query = f"{ids}&metric_key={key}{more}"
            await request(app, "GET", f"{API}metrics/get-history-bulk-interval", query=query)
            await request(app, "GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval", query=query)
    graphql = "query q($i: MlflowGetMetricHistoryBulkIntervalInput!) { mlflowGetMetricHistoryBulkInterval(input: $i) "
    fields = "{ metrics { runId key value timestamp step } apiError { code message } } }"
    for key in ("a", "none"):
        asked = {"query": graphql + fields, "variables": {"i": {"runIds": runs, "metricKey": key}}}
        await request(app, "POST", "/graphql", asked)
    await request(app, "GET", f"{API}experiments/search", query="max_results=5")
    await request(app, "POST", f"{API}runs/search", b"{")
    await request(app, "PUT", f"{API}runs/search", {})
    await request(app, "POST", f"{API}runs/nothing", {})


def table() -> list[str]:
    """How many rows beyond the window MLflow's page has, and in which of its scripts, as a browser finds them."""
    from mlflow.server import app  # type: ignore[import-not-found,unused-ignore]

    client = app.test_client()
    page = client.get("/").get_data(as_text=True)
    main = re.findall(r'defer="defer" src="static-files/([^"]+)"', page)[0]
    scripts = re.findall(r"static/js/3793\.\w+\.chunk\.js", client.get(f"/static-files/{main}").get_data(as_text=True))
    found = client.get(f"/static-files/{scripts[0]}").get_data(as_text=True)
    return [main, *scripts, *re.findall(r"rowBuffer:\d+", found)]


def main() -> None:
    from mlflow.server import handlers  # type: ignore[import-not-found,unused-ignore]
    from trackbed_mlflow import fast_path
    from trackbed_mlflow.app import create

    handlers.initialize_backend_stores(URI, URI, "mlflow-artifacts:/")
    os.environ["MLFLOW_ARTIFACTS_DESTINATION"] = "s3://none/live"
    asyncio.run(requests(create()))
    state = json.loads(fast_path.read_state(os.environ))
    print(json.dumps({"state": state, "answers": answers, "table": table()}))
    sys.stdout.flush()
    os._exit(0)  # threads of the fast path wait for requests


main()
