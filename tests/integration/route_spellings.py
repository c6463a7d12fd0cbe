"""Run by the server's Python: spellings of the routes that are off, as MLflow's own routers read them.

Argument: the folder of our modules. Prints JSON: how many were tried, and those that the edge lets through to a route
that is off.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{tempfile.mkdtemp()}/walk.db"
os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = "localhost"
sys.path.insert(0, sys.argv[1])

from mlflow.server import app as flask_app  # type: ignore[import-not-found]
from mlflow.server.fastapi_app import app as fastapi_app  # type: ignore[import-not-found]
from starlette.routing import Match, Mount, Route  # type: ignore[import-not-found]
from trackbed_mlflow.edge import routes
from werkzeug.exceptions import HTTPException  # type: ignore[import-not-found]
from werkzeug.routing import RequestRedirect  # type: ignore[import-not-found]

ENDS = (
    "/",
    "//",
    ";",
    "%3b",
    ";x=1",
    "%00",
    "%0a",
    "%0d",
    "%20",
    "%09",
    "%2f",
    "%5c",
    ".",
    "%2e",
    "..",
    "/.",
    "/..",
    "/%2e",
    "%23",
    "%3f",
    "%ff",
    "%c0%af",
    "%ef%bc%8f",
    "%e2%80%8b",
    "%7f",
    "%c2%85",
    "%e2%80%a8",
    "*",
    "'",
    "|",
)
WORDS = (
    lambda s: "".join(f"%{ord(c):02x}" for c in s),
    lambda s: "%252f" + s,
    lambda s: s + "/.",
    lambda s: "./" + s,
    lambda s: "x/../" + s,
    lambda s: "%2e/" + s,
    str.upper,
    str.title,
    lambda s: s.replace("a", "%61"),
    lambda s: s.replace("a", "\u0430"),
    lambda s: s.replace("s", "\u017f"),
    lambda s: s.replace("k", "\u212a"),
    lambda s: "%2f" + s,
    lambda s: s + "%2f",
    lambda s: "/" + s,
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "post", "CONNECT")


def plain(path: str) -> str:
    path = re.sub(r"<path:\w+>|\{\w+:path\}", "x", path)
    return re.sub(r"<(\w+:)?\w+>|\{\w+(:\w+)?\}", "1", path)


def walk(routes: Any, prefix: str = "") -> Iterator[Any]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from walk(route.original_router.routes, prefix + route.include_context.prefix)
        elif not isinstance(route, Mount) and getattr(route, "methods", None):
            yield Route(prefix + route.path, str, methods=list(route.methods))


NATIVE = list(walk(fastapi_app.routes))


def routed(path: str, method: str) -> str:
    """The path of the rule that MLflow would run; "" for none."""
    scope = {"type": "http", "path": path, "method": method, "root_path": "", "headers": []}
    matches = [(route.matches(dict(scope))[0], route.path) for route in NATIVE]
    for kind in (Match.FULL, Match.PARTIAL):
        for match, rule in matches:
            if match == kind:
                return str(rule) if kind == Match.FULL else ""
    environ = {
        "PATH_INFO": path.encode("utf-8", "surrogateescape").decode("latin-1"),
        "REQUEST_METHOD": method,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
    }
    try:
        return str(flask_app.url_map.bind_to_environ(environ).match(return_rule=True, method=method)[0].rule)
    except (HTTPException, RequestRedirect):
        return ""


def spellings(path: str) -> Iterator[str]:
    yield path
    segments = path.split("/")
    for end in ENDS:
        yield from (path + end, end + path, path[:-1] + end + path[-1:], path.replace("/mlflow", end + "/mlflow", 1))
    for at in range(1, len(segments)):
        for change in WORDS:
            yield "/".join([*segments[:at], change(segments[at]), *segments[at + 1 :]])
        yield "/".join(segments[:at]) + "%2f" + "/".join(segments[at:])


judge = routes.Judge()
rules = {(method, route.path) for route in NATIVE for method in route.methods}
rules |= {(method, rule.rule) for rule in flask_app.url_map.iter_rules() for method in rule.methods}
off = {(method, rule) for method, rule in rules if judge.refusal(plain(rule), method)}
tried, through = 0, []
for path in sorted({plain(rule) for _, rule in off}):
    for spelling in sorted(set(spellings(path))):
        read = unquote(spelling)
        for method in METHODS:
            tried += 1
            if judge.refusal(read, method) is None and (method, routed(read, method)) in off:
                through.append((method, spelling))
print(json.dumps({"off": len(off), "tried": tried, "through": through}))
