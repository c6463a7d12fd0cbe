"""Writers that remember what was acknowledged, and looking for all of it afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT, Clone

ROUNDS = int(os.environ.get("TRACKBED_FAULT_ROUNDS", "2"))
SEED = int(os.environ.get("TRACKBED_FAULT_SEED") or random.randrange(2**32))
WRITERS = 2


@dataclass
class Tally:
    """Figures of one fault class on one engine."""

    rounds: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    worst: float = 0.0
    repaired: int = 0  # rounds that took `invoke up`


@pytest.fixture(scope="session")
def rng() -> random.Random:
    return random.Random(SEED)


def pytest_report_header() -> str:
    return f"faults: TRACKBED_FAULT_SEED={SEED} TRACKBED_FAULT_ROUNDS={ROUNDS}"


@pytest.fixture(scope="session")
def tallies() -> Iterator[dict[str, Tally]]:
    """Printed at the end, and appended to the file that TRACKBED_FAULT_REPORT names."""
    found: dict[str, Tally] = {}
    yield found
    lines = [f"{name}: {t.rounds} rounds, {t.acknowledged} acknowledged, {len(t.lost)} lost, {t.refused} refused, "
             f"ready again after {t.worst:.1f} s at worst, {t.repaired} times by `invoke up`"
             for name, t in found.items()]
    sys.stderr.write(f"\nseed {SEED}\n" + "\n".join(lines) + "\n")
    if report := os.environ.get("TRACKBED_FAULT_REPORT"):
        with Path(report).open("a") as stream:
            stream.write(f"seed {SEED}\n" + "".join(line + "\n" for line in lines))


@pytest.fixture(scope="session")
def client_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the MLflow client of the server's own lock."""
    if given := os.environ.get("TRACKBED_FAULT_PYTHON"):
        return given
    venv = tmp_path_factory.mktemp("client") / "venv"
    uv = shutil.which("uv") or pytest.fail("uv is needed to make a venv with MLflow's client")
    for argv in ([uv, "venv", "-q", str(venv)],
                 [uv, "pip", "sync", "-q", "--require-hashes", "--python", f"{venv}/bin/python",
                  str(ROOT / "docker" / "mlflow" / "requirements.txt")]):
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=600)
    return f"{venv}/bin/python"


@contextmanager
def writing(clone: Clone, python: str, folder: Path, seed: int) -> Iterator[list[Path]]:
    """Writers at work while the context lasts; gives their journals."""
    folder.mkdir(parents=True, exist_ok=True)
    journals = [folder / f"journal-{number}" for number in range(WRITERS)]
    with (folder / "refused").open("w") as refused:
        running = [subprocess.Popen([python, str(Path(__file__).with_name("writer.py")), clone.url("mlflow"),
                                     str(journal), str(seed + number)], stdin=subprocess.PIPE, text=True,
                                    stdout=subprocess.DEVNULL, stderr=refused)
                   for number, journal in enumerate(journals)]
        try:
            deadline = time.monotonic() + 90
            while not all(j.exists() and j.stat().st_size for j in journals):
                assert time.monotonic() < deadline, "no writes: " + (folder / "refused").read_text()
                time.sleep(0.1)
            yield journals
        finally:
            for process in running:
                assert process.stdin is not None
                process.stdin.close()
            for process in running:
                try:
                    process.wait(120)
                except subprocess.TimeoutExpired:
                    process.kill()


def acknowledged(journals: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for journal in journals for line in journal.read_text().splitlines()]


def lost(clone: Clone, writes: list[dict[str, Any]]) -> list[str]:
    """What was acknowledged and is not there, row for row and byte for byte."""
    base, missing = f"{clone.url('mlflow')}/api/2.0", []
    web = requests.Session()
    for run in {write["run"] for write in writes}:
        answer = web.get(f"{base}/mlflow/runs/get", params={"run_id": run}, timeout=60)
        if answer.status_code == 404:
            missing.append(f"run {run}")
            continue
        answer.raise_for_status()
        found = answer.json()["run"]
        root = found["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        params = {p["key"]: p["value"] for p in found["data"].get("params", [])}
        history = web.get(f"{base}/mlflow/metrics/get-history", params={"run_id": run, "metric_key": "m"}, timeout=60)
        rows = {(int(m.get("step", 0)), m["value"]) for m in history.json().get("metrics", [])}
        for write in (w for w in writes if w["run"] == run):
            if write["kind"] == "metric" and (write["step"], write["value"]) not in rows:
                missing.append(f"metric {write}")
            elif write["kind"] == "param" and params.get(write["key"]) != write["value"]:
                missing.append(f"param {write}")
            elif write["kind"] == "artifact":
                content = web.get(f"{base}/mlflow-artifacts/artifacts/{root}/{write['path']}", timeout=60)
                if content.status_code != 200 or hashlib.sha256(content.content).hexdigest() != write["sha"]:
                    missing.append(f"artifact {write} ({content.status_code})")
    return missing
