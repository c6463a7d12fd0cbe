"""Runs inside the tracking server's Python: the server's imports, as it starts with or without the fast path.

Arguments: an address that is not used, the folder of our modules. Prints {"routes": ..., "api": ..., "graphql": ...,
"addresses": ..., "plugins": ..., "at the start": ..., "afterwards": ...}.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata

sys.path.insert(0, sys.argv[2])

from trackbed_mlflow import serve  # noqa: E402
from trackbed_mlflow.fast_path import imports  # noqa: E402

read = metadata.entry_points
serve.import_server()
at_the_start = [name for name in imports.COMMANDS if name in sys.modules]

import mlflow.server  # type: ignore[import-not-found]  # noqa: E402
from mlflow.server import fastapi_app  # noqa: E402
from mlflow.server.graphql import graphql_schema_extensions  # type: ignore[import-not-found]  # noqa: E402
from mlflow.utils import plugins  # type: ignore[import-not-found]  # noqa: E402

app = mlflow.server.app
rule = next(rule for rule in app.url_map.iter_rules() if rule.arguments and rule.endpoint != "static")
values = {name: f"{name} of it" for name in rule.arguments} | {"more": "a b"}
afterwards = []
for name in imports.COMMANDS:
    try:
        importlib.import_module(name)
        afterwards.append(name)
    except ImportError as error:
        afterwards.append(f"{name}: {error}")
print(
    json.dumps(
        {
            "routes": sorted([str(one), *sorted(one.methods or ()), one.endpoint] for one in app.url_map.iter_rules()),
            "api": json.loads(json.dumps(fastapi_app.app.openapi())),
            "graphql": str(graphql_schema_extensions.schema),
            "addresses": [
                app.url_map.bind("localhost").build(rule.endpoint, values, append_unknown=unknown)
                for unknown in (True, False)
            ],
            "plugins": sorted(str(one) for one in plugins.get_entry_points("mlflow.app")),
            "reads again": metadata.entry_points is read,
            "at the start": at_the_start,
            "afterwards": afterwards,
        }
    )
)
