"""The disk below the data is full for a while: a clear error, nothing corrupted, and room made is enough to go on."""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import PATIENCE, Clone
from tests.faults.conftest import ROUNDS, Harnesses
from tests.faults.disks import Disk, require_loop_devices
from tests.faults.harness import Fault, Harness, Tally
from tests.integration import inspection

SIZE = {"embedded": "6G", "docker": "400M"}  # the embedded engine's holds its venvs too


@pytest.fixture(scope="module")
def loops(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], Disk]]:
    require_loop_devices("a full disk")
    created: list[Disk] = []

    def mounted(folder: Path) -> Disk:
        created.append(Disk(folder, SIZE[engine], tmp_path_factory.mktemp("disk") / "image"))
        return created[-1]

    yield mounted
    for disk in created:
        disk.close()


@pytest.fixture(scope="module")
def small(
    engine: str, loops: Callable[[Path], Disk], clone_factory: Callable[..., Clone], harnesses: Harnesses
) -> Iterator[tuple[Harness, dict[str, Disk]]]:
    """A project with its data on small disks: the whole state folder, or each data volume."""
    clone = clone_factory(engine)
    disks: dict[str, Disk] = {}
    if engine == "embedded":
        clone.state.mkdir(mode=0o755)
        disks["state folder"] = loops(clone.state)
        clone.state.chmod(0o755)
        clone.up()
    else:
        clone.up()
        assert clone.invoke("down").returncode == 0
        store = clone.environment.get("TRACKBED_OBJECT_STORE", "versitygw")
        for name, volume in (("postgres", "postgres"), ("store", store)):
            folder = Path(
                inspection.output("docker", "volume", "inspect", f"{clone.project}_{volume}", "-f", "{{.Mountpoint}}")
            )
            kept = folder.with_name("kept")
            inspection.output("cp", "-a", str(folder), str(kept))
            disks[name] = loops(folder)
            inspection.output("cp", "-a", f"{kept}/.", str(folder))
            shutil.rmtree(kept)
        clone.up()
    yield harnesses(clone), disks
    done = clone.invoke("down", *(("--delete-data", "--yes") if engine == "embedded" else ()))
    assert done.returncode == 0, done.stderr


def put(url: str, size: int) -> requests.Response:
    return requests.put(
        f"{url}/api/2.0/mlflow-artifacts/artifacts/full/{uuid.uuid4().hex}", data=os.urandom(size), timeout=PATIENCE
    )


def full(disk: Disk, store: bool, whole: bool) -> Fault:
    def fault(clone: Clone, rng: random.Random) -> None:
        disk.fill()
        try:
            until = time.monotonic() + rng.uniform(3, 8)
            while time.monotonic() < until:
                if store:
                    answer = put(clone.url("mlflow"), 3_000_000)
                    assert answer.status_code >= 500, f"stored on a full disk? {answer.status_code} {answer.text[:300]}"
                    assert "Traceback" not in answer.text
                time.sleep(0.3)
            done = clone.invoke("status")
            assert "warning: only 0.0 GiB are free" in done.stderr or not whole, done.stderr
            assert "Traceback" not in done.stdout + done.stderr
        finally:
            disk.free()

    return fault


@pytest.mark.parametrize(
    ("engine", "name"), [("embedded", "state folder"), ("docker", "postgres"), ("docker", "store")], indirect=["engine"]
)
def test_disk_full(
    small: tuple[Harness, dict[str, Disk]], name: str, rng: random.Random, tallies: dict[str, Tally]
) -> None:
    harness, disks = small
    harness.rng = rng
    tally = tallies.setdefault(f"{harness.clone.engine}, disk full: {name}", Tally())
    for _ in range(ROUNDS):
        harness.round(full(disks[name], name != "postgres", name == "state folder"), tally)
    harness.verify(tally)
    done = harness.clone.invoke("check")
    assert done.returncode == 0, done.stdout
