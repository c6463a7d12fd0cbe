"""What docker/mlflow/trackbed_mlflow/fast_path shortens stays what it is: both ways write the same rows and give the same answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Clone
from tests.integration import seen

SCRIPT = Path(__file__).with_name("quick_equal.py").read_text()


@pytest.fixture
def database(system: Clone) -> Iterator[str]:
    with seen.empty_database(system, "quick_equal") as address:
        yield address


def test_the_short_ways_write_and_answer_what_mlflows_own_do(system: Clone, database: str) -> None:
    modules = "/opt/trackbed" if system.engine == "docker" else str(system.folder / "docker" / "mlflow")
    found = json.loads(
        seen.output(*seen.mlflow_python(system), "-", database, modules, stdin=SCRIPT, timeout=300).splitlines()[-1]
    )
    assert found["different"] == []
    for kind, least in {
        "log_metric": 5,
        "log_batch": 50,
        "refused": 16,
        "deleted": 3,
        "search": 30,
        "get_run": 10,
        "crowded": 2,
        "after connections ended": 5,
        "answers by ours": 1000,
    }.items():
        assert found["compared"][kind] >= least, kind


def test_the_server_takes_every_short_way(system: Clone) -> None:
    """Nothing in its log says that MLflow is not built as they expect."""
    log = system.invoke("logs", "mlflow").stdout
    assert "Security middleware enabled" in log  # the log reaches back to the start
    assert "MLflow's own way" not in log and "one by one" not in log and "takes other words" not in log
