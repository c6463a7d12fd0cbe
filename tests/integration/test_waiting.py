"""A store that does not answer keeps waiting only who asks for artifacts, and searches only who searches, whatever becomes
of their process; whoever has gone gets no run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Clone
from tests.integration import inspection

SCRIPT = Path(__file__).with_name("waiting.py").read_text()
CLIENTS = 10  # of the script


@pytest.fixture
def database(deployment: Clone) -> Iterator[str]:
    with inspection.empty_database(deployment, "waiting") as address:
        yield address


def told(deployment: Clone, database: str, what: str) -> Any:
    """What the script prints."""
    modules = "/opt/trackbed" if deployment.engine == "docker" else str(deployment.folder / "docker" / "mlflow")
    argv = (*inspection.mlflow_python(deployment), "-", database, modules, what)
    return json.loads(inspection.output(*argv, stdin=SCRIPT, timeout=300).splitlines()[-1])


@pytest.mark.parametrize("engine", ["embedded"], indirect=True, scope="session")  # the same server on every engine
def test_a_hung_store_and_abandoned_requests_keep_nobody_waiting(deployment: Clone, database: str) -> None:
    data = told(deployment, database, "queues")
    assert data["unknown"] == []
    # queued behind the store each of them took more than 20 s; a busy machine takes its time
    assert all(seconds < 20 for taken in data["hung"].values() for seconds in taken), data["hung"]
    # in one queue with the searches it takes about as long as one of them, in each round
    assert data["log_metric"] < data["search"] / 2, (data["log_metric"], data["search"])
    # all attempts that had timed out were run too: three for each client
    assert CLIENTS <= data["runs"] <= CLIENTS + 2


def test_searches_have_a_process_of_their_own_and_nobody_depends_on_it(deployment: Clone, database: str) -> None:
    assert told(deployment, database, "processes") == []


FORKED = """
import json, os, sys
first, result = sys.argv[1], []
def nice(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return int(stream.read().rsplit(")", 1)[1].split()[16])
with open(f"/proc/{first}/task/{first}/children") as stream:
    for pid in stream.read().split():
        try:
            same = os.stat(f"/proc/{pid}").st_uid == os.stat(f"/proc/{first}").st_uid
            result += [same] if nice(pid) > nice(first) else []
        except OSError:
            continue
print(json.dumps(result))
"""


def test_the_projects_own_server_searches_in_processes_of_its_services_account(deployment: Clone) -> None:
    first = inspection.main_process(deployment, "mlflow") if deployment.engine == "embedded" else 1

    def search(_: int) -> dict[str, Any]:
        return inspection.mlflow(deployment, "runs/search", {"experiment_ids": ["0"], "max_results": 1000})

    def found() -> list[bool]:
        list(clients.map(search, range(16)))
        look = (*inspection.mlflow_python(deployment), "-", str(first))
        return list(json.loads(inspection.output(*look, stdin=FORKED)))

    with ThreadPoolExecutor(8) as clients:
        assert all(inspection.until(found))
