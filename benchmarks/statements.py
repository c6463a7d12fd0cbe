"""Runs inside the tracking server's Python: what PostgreSQL reads for each question, with the plans of its statements.

Arguments: the folder of our modules, and the database's address, which is the service's own where it is left out. On
stdin is {QUESTION: [[METHOD, PATH, BODY]]}. Prints
{QUESTION: {"statements", "pages", "rows", "spilled", "kib", "plans"}}. Pages of 8 KiB are those that the statements
find in PostgreSQL's memory or read from the disk; `spilled` of them went to temporary files; `kib` is what sorts and
hashes held in memory. Every SELECT is explained before it runs, so no figure depends on what else the machine does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MODULES, URI = (*sys.argv[1:], os.environ.get("MLFLOW_BACKEND_STORE_URI", ""))[:2]
sys.path.insert(0, MODULES)
os.environ |= {
    "_MLFLOW_SERVER_FILE_STORE": URI,
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
    "_MLFLOW_SERVER_ARTIFACT_DESTINATION": "s3://none/live",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://none/live",
    "TRACKBED_OWN_TMP": tempfile.mkdtemp(),
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def counts(plan: dict[str, Any]) -> dict[str, int]:
    """The figures of one statement; those of a plan's root contain the ones below it."""
    rows = kib = 0
    for node in nodes(plan):
        rows += round((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"])
        kib += node.get("Sort Space Used", 0) if node.get("Sort Space Type") == "Memory" else 0
        kib += node.get("Peak Memory Usage", 0)
    pages = sum(plan.get(f"{kind} {what} Blocks", 0) for kind in ("Shared", "Local") for what in ("Hit", "Read"))
    return {"statements": 1, "pages": pages, "rows": rows, "spilled": plan.get("Temp Written Blocks", 0), "kib": kib}


@contextmanager
def explained(engine: Any) -> Iterator[dict[str, Any]]:
    """The sums of all statements of any connection, and their plans."""
    import sqlalchemy  # type: ignore[import-not-found,unused-ignore]

    result: dict[str, Any] = {"statements": 0, "pages": 0, "rows": 0, "spilled": 0, "kib": 0, "plans": []}

    def explain(_: Any, cursor: Any, statement: str, parameters: Any, *__: Any) -> None:
        if not statement.lstrip().startswith(("SELECT", "WITH")):
            return
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
        found = cursor.fetchone()[0][0]
        for name, count in counts(found["Plan"]).items():
            result[name] += count
        result["plans"].append({"statement": statement, **found})

    sqlalchemy.event.listen(engine, "before_cursor_execute", explain)
    try:
        yield result
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", explain)


def main() -> None:
    from mlflow.server import app, handlers  # type: ignore[import-not-found,unused-ignore]
    from sqlalchemy.engine import Engine  # type: ignore[import-not-found,unused-ignore]
    from trackbed_mlflow.app import create  # type: ignore[import-not-found,unused-ignore]

    questions: dict[str, list[tuple[str, str, Any]]] = json.load(sys.stdin)
    handlers.initialize_backend_stores(URI, URI, "mlflow-artifacts:/")
    create()
    client, result = app.test_client(), {}

    def ask(method: str, path: str, body: Any) -> None:
        answer = client.open(path, method=method, json=body) if body is not None else client.open(path, method=method)
        if answer.status_code != 200:
            raise SystemExit(f"{path}: {answer.status_code} {answer.get_data(as_text=True)[:300]}")

    for name, requests in questions.items():
        for request in requests:
            ask(*request)  # what is looked up once, as which indexes are there, belongs to no question
        with explained(Engine) as found:
            for request in requests:
                ask(*request)
        result[name] = found
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # threads of the server wait for requests


if __name__ == "__main__":
    main()
