"""Clients as they are in the wild against ours and against a plain server: old versions of MLflow, other libraries,
thousands of files, a large one. Needs a package index, and an hour's patience.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import remote_clients
from tests.conftest import Clone
from tests.integration import seen
from tests.integration.workload import Lab

SCRIPT = Path(__file__).with_name("client_libraries.py")
LARGE = 1200 << 20
OLD = {"1.30": ("mlflow>=1.30,<1.31", "scikit-learn<1.4", "numpy<2", "setuptools<80"),
       "2.9": ("mlflow>=2.9,<2.10", "setuptools<80"), "2.22": ("mlflow>=2.22,<2.23",)}
LIBRARIES = ("mlflow==3.17.2", "scikit-learn", "optuna", "optuna-integration", "opentelemetry-sdk",
             "opentelemetry-exporter-otlp-proto-http")


@pytest.fixture(scope="session")
def current(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote_clients.make_python(tmp_path_factory.mktemp("current") / "venv")


@pytest.fixture(scope="session")
def plain(current: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with remote_clients.plain_server(current, tmp_path_factory.mktemp("plain")) as uri:
        yield uri


@pytest.fixture(scope="session", params=OLD)
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """None of them runs on a newer Python than this one."""
    return remote_clients.make_python(tmp_path_factory.mktemp("old") / "venv", *OLD[request.param], version="3.11")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote_clients.make_python(tmp_path_factory.mktemp("libraries") / "venv", *LIBRARIES)


def own_name() -> str:
    return f"long-{uuid.uuid4().hex[:8]}"


def test_old_clients_read_back_what_a_plain_server_gives(system: Clone, old: Path, plain: str, tmp_path: Path) -> None:
    expected = remote_clients.told(old, plain, tmp_path / "plain", own_name(), timeout=590)
    assert remote_clients.told(old, system.url("mlflow"), tmp_path / "ours", own_name(), timeout=590) == expected


@pytest.mark.timeout(3600)
def test_thousands_of_files_and_a_large_one(system: Clone, current: Path, tmp_path: Path) -> None:
    found = remote_clients.told(current, system.url("mlflow"), tmp_path, own_name(), 2000, LARGE, timeout=3000)
    assert found["large"] and found["tree"] and found["listed"]["large.bin"] == LARGE
    assert len([path for path in found["listed"] if path.startswith("tree/")]) == 2000


@pytest.mark.timeout(3600)
def test_the_notebook_sends_and_gets_a_large_file(system: Clone) -> None:
    words = ["", own_name(), "10", str(LARGE)]
    found = Lab(system.value("jupyter-url")).run_cells(
        [f"import sys; sys.argv = {words!r}", remote_clients.SCRIPT.read_text()], timeout=3000).result
    assert found["large"] and found["listed"]["large.bin"] == LARGE


@pytest.mark.parametrize("what", ["opentelemetry", "sklearn", "optuna"])
def test_what_libraries_log_by_themselves(system: Clone, libraries: Path, plain: str, tmp_path: Path,
                                          what: str) -> None:
    found = []
    for uri in (plain, system.url("mlflow")):
        done = seen.run(str(libraries), str(SCRIPT), own_name(), what, timeout=590, cwd=tmp_path,
                        env=remote_clients.environment(libraries, uri, tmp_path))
        assert done.returncode == 0, done.stderr[-4000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[1] == found[0]
