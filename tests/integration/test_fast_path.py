"""The fast path (trackbed_mlflow/fast_path) changes nothing but the time: the same rows, answers and errors as MLflow's own."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from tests.conftest import Clone
from tests.integration import inspection

EQUAL = Path(__file__).with_name("fast_path_equal.py").read_text()
REQUESTS = Path(__file__).with_name("fast_path_requests.py").read_text()
IMPORTS = Path(__file__).with_name("fast_path_imports.py").read_text()


def modules(deployment: Clone) -> str:
    return "/opt/trackbed" if deployment.engine == "docker" else str(deployment.folder / "docker" / "mlflow")


def run(deployment: Clone, script: str, mode: str = "auto") -> Any:
    """What a script prints in the server's Python, over an empty database."""
    python = inspection.mlflow_python(deployment)
    if deployment.engine == "docker":
        python = [*python[:3], "-e", f"TRACKBED_FAST_PATH={mode}", *python[3:]]
    with inspection.empty_database(deployment, f"fast_path_{mode}") as address:
        printed = inspection.output(
            *python,
            "-",
            address,
            modules(deployment),
            stdin=script,
            timeout=300,
            env={**os.environ, "TRACKBED_FAST_PATH": mode},
        )
    return json.loads(printed.splitlines()[-1])


def test_the_fast_path_writes_and_answers_what_mlflows_own_way_does(deployment: Clone) -> None:
    result = run(deployment, EQUAL)
    assert result["different"] == []
    for kind, least in {
        "log_metric": 5,
        "log_batch": 50,
        "refused": 16,
        "deleted": 3,
        "search": 30,
        "get_run": 10,
        "page": 120,
        "pages walked": 50,
        "pages sorted": 100,
        "chart": 58,
        "made later": 1,
        "crowded": 2,
        "after connections ended": 5,
        "answers by ours": 1000,
    }.items():
        assert result["compared"][kind] >= least, kind


def test_requests_are_answered_alike_with_it_on_and_off(deployment: Clone) -> None:
    """Through the application as it is served, word for word."""
    on, off = run(deployment, REQUESTS, "auto"), run(deployment, REQUESTS, "off")
    assert on["state"] == {"enabled": True, "fallbacks": {}, "limited": {}}
    assert off["state"] == {"enabled": False, "fallbacks": {}, "limited": {}}
    assert [pair for pair in zip(on["answers"], off["answers"], strict=True) if pair[0] != pair[1]] == []
    statuses = Counter(status for _, status, _ in on["answers"])
    assert statuses[200] > 30 and statuses[400] > 3 and statuses[404] > 1
    # the page's scripts with another number of rows have other addresses: a browser keeps MLflow's own for weeks
    assert on["table"][2:] == ["rowBuffer:10"] and off["table"][2:] == ["rowBuffer:101"]
    assert not set(on["table"]) & set(off["table"]) and len(off["table"]) == 3


def test_the_server_has_the_same_routes_with_its_shorter_import(deployment: Clone) -> None:
    on, off = run(deployment, IMPORTS, "auto"), run(deployment, IMPORTS, "off")
    left, imported = on.pop("at the start"), off.pop("at the start")
    assert (left, "mlflow.sagemaker" in imported) == ([], True)
    assert on == off and len(on["routes"]) > 400 and on["reads again"]


def test_the_server_uses_all_of_it_and_says_so(deployment: Clone) -> None:
    assert "MLflow's fast path: on" in deployment.invoke("status").stderr
    assert "fast path" in deployment.invoke("doctor").stdout
