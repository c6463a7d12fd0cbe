"""A store that does not answer keeps waiting only who asks for artifacts, and searches only who searches; whoever has
gone gets no run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Clone
from tests.integration import inspection

SCRIPT = Path(__file__).with_name("waiting.py").read_text()
CLIENTS = 10  # of the script


@pytest.fixture
def database(deployment: Clone) -> Iterator[str]:
    with inspection.empty_database(deployment, "waiting") as address:
        yield address


@pytest.mark.parametrize("engine", ["embedded"], indirect=True, scope="session")  # the same server on every engine
def test_a_hung_store_and_abandoned_requests_keep_nobody_waiting(deployment: Clone, database: str) -> None:
    modules = str(deployment.folder / "docker" / "mlflow")
    data = json.loads(
        inspection.output(
            *inspection.mlflow_python(deployment), "-", database, modules, stdin=SCRIPT, timeout=300
        ).splitlines()[-1]
    )
    assert data["unknown"] == []
    # queued behind the store each of them took more than 20 s; a busy machine takes its time
    assert all(seconds < 5 for taken in data["hung"].values() for seconds in taken), data["hung"]
    # in one queue with the searches it takes about as long as one of them
    assert data["log_metric"] < data["search"] / 2, (data["log_metric"], data["search"])
    # all attempts that had timed out were run too: three for each client
    assert CLIENTS <= data["runs"] <= CLIENTS + 2
