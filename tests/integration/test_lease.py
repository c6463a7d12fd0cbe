"""The last backup of a lease, as cron makes it while clients write: nothing that was acknowledged before it began is
lost, and what came after it is named."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from helpers.leases import last_backup
from tests.conftest import Clone
from tests.integration import crontabs, inspection
from tests.integration.crontabs import Crontab

pytestmark = pytest.mark.transfer


class Writer:
    """A client that logs until it is told to end. ``acknowledged``: when MLflow had answered, and what."""

    def __init__(self, clone: Clone, number: int) -> None:
        self.acknowledged: list[tuple[float, str, str]] = []
        self._clone, self._number, self._ended = clone, number, threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        step = 0
        try:
            while not self._ended.is_set():
                info = {"experiment_id": "0", "run_name": f"late {self._number}", "start_time": 1}
                run = inspection.mlflow(self._clone, "runs/create", info)["run"]["info"]["run_id"]
                for _ in range(4):
                    step += 1
                    metric = {"run_id": run, "key": "m", "value": step, "timestamp": 1, "step": step}
                    inspection.mlflow(self._clone, "runs/log-metric", metric)
                    self._keep(run, f"metric {step}")
                path = f"0/{run}/artifacts/a.txt"
                url = f"{self._clone.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/{path}"
                with inspection.DIRECT.open(Request(url, b"late", method="PUT"), timeout=60):
                    self._keep(run, "artifact")
        except BaseException as error:
            self._failed.append(error)

    def _keep(self, run: str, what: str) -> None:
        self.acknowledged.append((time.time(), run, what))

    def end(self) -> None:
        self._ended.set()
        self._thread.join(60)
        assert not self._failed and not self._thread.is_alive(), self._failed


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk: what is on that of the state folder goes with the machine."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("NOT TESTED: no /dev/shm as another disk")
    folder = Path(tempfile.mkdtemp(prefix="trackbed-test-", dir=shared))
    yield folder
    shutil.rmtree(folder)


def test_the_last_backup_of_a_lease(own: dict[str, Clone], tmp_path: Path, elsewhere: Path) -> None:
    clone, repo = own["embedded"], elsewhere / "repo"
    with crontabs.standing(tmp_path) as crontab:
        kept = {"TRACKBED_BACKUP_TO": str(repo)}
        done = up(clone, crontab, timedelta(hours=1), kept)
        assert "cron makes a last backup" in done.stderr and "looks every 5 minutes" in done.stderr, done.stderr
        assert "makes a last backup" not in up(clone, crontab, timedelta(hours=1), kept).stderr
        look = crontab.line
        assert "begins" in ran(look) and not repo.joinpath("backups").exists()
        assert up(clone, crontab, timedelta(minutes=14), kept).returncode == 0  # as if that time had gone
        writers = [Writer(clone, number) for number in range(2)]
        inspection.until(lambda: all(writer.acknowledged for writer in writers))
        begun = time.time()
        said = ran(look)
        for writer in writers:
            writer.end()
        assert "read back" in said and "written after it" in said, said
        # what came after it, once more; there is no time for another one
        record = clone.project_folder / last_backup.RECORD
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "took": 1e6}))
        said = ran(look)
        assert "no time for another backup" in said, said
        view = json.loads(clone.invoke("status", "--json", around=crontab.around | kept).stdout)["lease"]
        later = view["last_backup"]["later"][0]
        assert view["last_backup"]["verified"] and later in said
        # the next machine
        done = clone.invoke("restore", content["backup"], "--yes", "--no-backup", around=crontab.around | kept)
        assert done.returncode == 0, done.stderr
        lost = missing(clone, [entry for writer in writers for entry in writer.acknowledged])
        assert all(at > begun for at, _, _ in lost)
        metrics = sum("metric" in what for _, _, what in lost)
        artifacts = sum(what == "artifact" for _, _, what in lost)
        assert named(later, "metric") == metrics and named(later, "artifact") == artifacts, (later, lost)
        assert named(later, "run") == len({run for _, run, what in lost if "metric" in what})
        assert "last backup" in clone.invoke("backup.schedule", "--off", around=crontab.around).stderr
        assert crontab.text == ""
        clone.invoke("up", "--lease-end=", around=crontab.around)


def up(clone: Clone, crontab: Crontab, left: timedelta, kept: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`invoke up` on a machine whose lease ends in this time."""
    end = datetime.now(UTC) + left
    done = clone.invoke("up", f"--lease-end={end:%Y-%m-%dT%H:%MZ}", around=crontab.around | kept)
    assert done.returncode == 0, done.stderr
    return done


def ran(line: str) -> str:
    done = crontabs.run(line)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def named(line: str, kind: str) -> int:
    """How many of a kind a line of what came later names."""
    match = re.search(rf"(\d+) {kind}s?\b", line)
    return int(match[1]) if match else 0


def missing(clone: Clone, acknowledged: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """What was acknowledged and is not there."""
    held: dict[str, set[str]] = {}
    for run in {run for _, run, _ in acknowledged}:
        status, text = inspection.ask(
            f"{clone.url('mlflow')}/api/2.0/mlflow/metrics/get-history?run_id={run}&metric_key=m"
        )
        history: list[dict[str, Any]] = json.loads(text).get("metrics", []) if status == 200 else []
        held[run] = {f"metric {entry['step']}" for entry in history}
        status, text = inspection.ask(
            f"{clone.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/a.txt"
        )
        held[run] |= {"artifact"} if status == 200 and text == "late" else set()
    return [entry for entry in acknowledged if entry[2] not in held[entry[1]]]
