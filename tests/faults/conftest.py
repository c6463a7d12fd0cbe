"""Rounds, seed and report of the fault session; its projects with their writers."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Clone
from tests.faults.harness import Harness, Tally, Writers

ROUNDS = int(os.environ.get("TRACKBED_FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("TRACKBED_FAULT_SEED") or random.randrange(2**32))
Harnesses = Callable[[Clone], Harness]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Of this test alone, so that one that is run by itself does the same."""
    return random.Random(SEED + zlib.crc32(request.node.name.encode()))


def pytest_report_header() -> str:
    return f"faults: TRACKBED_FAULT_SEED={SEED} TRACKBED_FAULT_ROUNDS={ROUNDS}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: "still_there" in item.name or "harness" in item.name)  # once more, at the end
    for item in items:
        item.add_marker(pytest.mark.timeout(600 + 120 * ROUNDS))


def row(name: str, tally: Tally) -> str:
    """One line of the report: a row of the table in docs/reliability.md."""
    engine, fault = name.split(", ", 1)
    return (
        f"| {engine} | {fault} | {tally.rounds} | {tally.acknowledged} | {len(tally.lost)} | {tally.refused} | "
        f"{tally.worst:.1f} | {tally.repaired} |"
    )


@pytest.fixture(scope="session")
def tallies() -> Iterator[dict[str, Tally]]:
    """Printed at the end, and appended to the file that TRACKBED_FAULT_REPORT names."""
    result: dict[str, Tally] = {}
    yield result
    lines = "\n".join([f"seed {SEED}", *(row(name, tally) for name, tally in result.items())]) + "\n"
    sys.stderr.write("\nengine, fault, rounds, acknowledged, lost, refused, usable again after, by a task\n" + lines)
    if report := os.environ.get("TRACKBED_FAULT_REPORT"):
        with Path(report).open("a") as stream:
            stream.write(lines)


@pytest.fixture(scope="session")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the MLflow client of the server's own lock."""
    if given := os.environ.get("TRACKBED_FAULT_PYTHON"):
        return given
    venv = tmp_path_factory.mktemp("client") / "venv"
    uv = shutil.which("uv") or pytest.fail("uv is needed to make a venv with MLflow's client")
    for argv in (
        [uv, "venv", "-q", str(venv)],
        [
            uv,
            "pip",
            "sync",
            "-q",
            "--require-hashes",
            "--python",
            f"{venv}/bin/python",
            str(ROOT / "docker" / "mlflow" / "requirements.txt"),
        ],
    ):
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=600)
    return f"{venv}/bin/python"


@pytest.fixture(scope="session")
def harnesses(client_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harnesses]:
    """The harness of a project, made when it is first asked for."""
    created: dict[str, Harness] = {}

    def get(clone: Clone) -> Harness:
        if clone.project not in created:
            folder = tmp_path_factory.mktemp("journals")
            created[clone.project] = Harness(
                clone, Writers(clone.url("mlflow"), client_python, folder, SEED % 2**31), random.Random(SEED)
            )
        return created[clone.project]

    yield get
    for harness in created.values():
        harness.writers.close()


@pytest.fixture
def harness(deployment: Clone, harnesses: Harnesses, rng: random.Random) -> Harness:
    """The shared project's."""
    result = harnesses(deployment)
    result.rng = rng
    return result
