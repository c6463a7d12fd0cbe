"""The power fails: whatever was acknowledged before is there after the machine is back, rows and artifacts."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import PATIENCE, Clone
from tests.faults.conftest import ROUNDS, Harnesses
from tests.faults.disks import Disk, require_loop_devices
from tests.faults.harness import Fault, Harness, Tally, signal_all
from tests.integration import inspection

SIZE = {"embedded": "6G", "docker": "1G"}  # the embedded engine's holds its venvs too


@pytest.fixture(scope="module")
def powered(
    engine: str, tmp_path_factory: pytest.TempPathFactory, clone_factory: Callable[..., Clone], harnesses: Harnesses
) -> Iterator[tuple[Harness, Disk]]:
    """A project with its data on a disk of their own: the whole state folder, or the volumes of database and store."""
    require_loop_devices("a power cut")
    clone, image = clone_factory(engine), tmp_path_factory.mktemp("power") / "image"
    if engine == "embedded":
        clone.state.mkdir(mode=0o755)
        disk = Disk(clone.state, SIZE[engine], image)
        clone.state.chmod(0o755)
    else:
        clone.up()
        assert clone.invoke("down").returncode == 0
        disk = Disk(tmp_path_factory.mktemp("disk"), SIZE[engine], image)
        for name in ("postgres", clone.environment.get("TRACKBED_OBJECT_STORE", "minio")):
            disk.bind(
                Path(
                    inspection.output("docker", "volume", "inspect", f"{clone.project}_{name}", "-f", "{{.Mountpoint}}")
                )
            )
    try:
        if engine == "embedded":
            cut_first_start(clone, disk)
        clone.up()
        yield harnesses(clone), disk
        clone.invoke("down", *(("--delete-data", "--yes") if engine == "embedded" else ()))
    finally:
        end_all(clone)
        disk.close()


def cut_first_start(clone: Clone, disk: Disk) -> None:
    """While packages are installed: what uv unpacked is emptied, in its cache too. The next start makes it good."""
    first = clone.start("up")
    first.until("installing jupyter")
    time.sleep(1)
    clone_instance(clone)
    disk.cut()
    os.killpg(first.process.pid, signal.SIGKILL)  # with uv
    first.end()
    end_all(clone)
    disk.back()


def end_all(clone: Clone) -> None:
    """As a machine without power ends it: every process of the project at once."""
    if clone.engine == "docker":
        if containers := inspection.containers(clone):
            inspection.run("docker", "kill", *containers)
            inspection.run(
                "docker", "stop", "--time", "0", *containers
            )  # the engine itself was off: it restarts nothing
        return
    marked = f"{inspection.MARK}={clone_instance(clone)}".encode()
    for _ in range(3):  # one may have been starting another
        result = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if marked in (folder / "environ").read_bytes().split(b"\0"):
                    result.append(int(folder.name))
            except OSError:
                continue
        signal_all(result, signal.SIGKILL)
        time.sleep(0.2)


INSTANCES: dict[str, str] = {}


def clone_instance(clone: Clone) -> str:
    """Kept by the test: the state folder cannot be read once the power is off."""
    try:
        INSTANCES[clone.project] = str(json.loads((clone.project_folder / "state.json").read_text())["instance"])
    except OSError:
        pass
    return INSTANCES.get(clone.project, "none")


def power_cut(disk: Disk, last: Callable[[Clone], None]) -> Fault:
    """A cut in the middle of writing, ``last`` just before it; then the machine and `invoke up`."""

    def fault(clone: Clone, rng: random.Random) -> None:
        clone_instance(clone)
        time.sleep(rng.uniform(1, 8))
        last(clone)
        disk.cut()
        end_all(clone)
        disk.back()
        done = clone.invoke("up")
        logged = "" if done.returncode == 0 else clone.invoke("logs", "mlflow").stdout[-8000:]
        assert done.returncode == 0, done.stderr + logged

    return fault


def put(clone: Clone, content: bytes) -> str:
    path = f"power/{uuid.uuid4().hex}/deep/er/a.bin"
    answer = requests.put(
        f"{clone.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/{path}", data=content, timeout=PATIENCE
    )
    assert answer.status_code == 200, answer.text
    return path


def get(clone: Clone, path: str) -> bytes:
    answer = requests.get(f"{clone.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/{path}", timeout=PATIENCE)
    return answer.content if answer.status_code == 200 else f"status {answer.status_code}".encode()


def test_power_cut(powered: tuple[Harness, Disk], rng: random.Random, tallies: dict[str, Tally]) -> None:
    harness, disk = powered
    harness.rng = rng
    tally = tallies.setdefault(f"{harness.clone.engine}, power cut", Tally())
    stored: dict[str, bytes] = {}

    def last(clone: Clone) -> None:
        for size in (0, 1000, 300_000, 12_000_000):
            content = os.urandom(size)
            stored[put(clone, content)] = content

    for _ in range(ROUNDS):
        harness.round(power_cut(disk, last), tally)
    harness.verify(tally)
    wrong = [path for path, content in stored.items() if get(harness.clone, path) != content]
    tally.acknowledged += len(stored)
    tally.lost += wrong
    assert not wrong, f"{len(wrong)} of {len(stored)} artifacts that were acknowledged just before a cut"
    done = harness.clone.invoke("check")
    assert done.returncode == 0, done.stdout
