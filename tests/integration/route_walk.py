"""Run by the server's Python: every route of the MLflow that it has, as JSON lines of [method, path].

{} stands for one segment of a path, {path} for the rest of it, as in docker/mlflow/trackbed_mlflow/edge/routes.py.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{tempfile.mkdtemp()}/walk.db"
os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = "localhost"

from mlflow.server import app as flask_app  # type: ignore[import-not-found]
from mlflow.server.fastapi_app import app as fastapi_app  # type: ignore[import-not-found]
from starlette.routing import Mount  # type: ignore[import-not-found]


def plain(path: str) -> str:
    path = re.sub(r"<path:\w+>|\{\w+:path\}", "{path}", path)
    return re.sub(r"<(\w+:)?\w+>|\{(?!path\})\w+(:\w+)?\}", "{}", path)


def walk(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from walk(route.original_router.routes, prefix + route.include_context.prefix)
        elif isinstance(route, Mount) and route.path == "" and getattr(route.app, "app", None) is flask_app:
            for rule in route.app.app.url_map.iter_rules():
                for method in rule.methods - {"HEAD", "OPTIONS"}:
                    yield method, plain(rule.rule)
        elif getattr(route, "methods", None):
            for method in route.methods - {"HEAD", "OPTIONS"}:
                yield method, plain(prefix + route.path)
        else:  # a websocket, another mount: to be looked at by a person
            yield type(route).__name__, prefix + getattr(route, "path", "")


print(json.dumps(sorted(set(walk(fastapi_app.routes)))))
