"""`restore`, `upgrade` and `move` that end at a random moment, by `kill -9` or Ctrl-C: the old state or the new one,
whole, and a way on with the commands that the messages name."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Clone, require_docker
from tests.faults.conftest import ROUNDS, Harnesses
from tests.faults.harness import Harness, Tally, Write, lost
from tests.integration import inspection
from tests.integration.test_upgrade import old_venv, use_database

MAKE = """
import json, sys, mlflow
client = mlflow.MlflowClient(sys.argv[1])
experiment = client.create_experiment("old", artifact_location="mlflow-artifacts:/old")
for number in range(50):
    run = client.create_run(experiment).info.run_id
    print(json.dumps({"run": run, "kind": "run"}))
    client.log_param(run, "p", "ü" * number)
    print(json.dumps({"run": run, "kind": "param", "key": "p", "value": "ü" * number}))
    for step in range(4):
        client.log_metric(run, "m", step / 3, step=step)
        print(json.dumps({"run": run, "kind": "metric", "step": step, "value": step / 3}))
"""


# steps that each prints, from its first to its last; it is ended somewhere after one of them
RESTORE = (
    "verifying",
    "objects",
    "backing up the current data",
    "until everything is usable",
)
UPGRADE = ("backing up", "copying the database", "migrating the copy", "probing the copy", "until everything is usable")
MOVE = ("backing up the", "until everything is usable")
READ_BACK: dict[str, tuple[str, ...]] = {
    "embedded": ("reading the objects back",),
    "docker": (),
}  # a folder confirms nothing of what it has stored


def interrupt(clone: Clone, words: tuple[str, ...], moments: tuple[str, ...], rng: random.Random) -> None:
    """Run a task and end it less than 2 seconds after one of its steps began: by Ctrl-C, by `kill -9` of it alone, or
    of it and the commands that it had started."""
    running = clone.start(*words)
    running.until(rng.choice(moments), 300)
    try:
        running.process.wait(rng.uniform(0, 2))
        return  # it was faster
    except subprocess.TimeoutExpired:
        pass
    way = rng.choice(["Ctrl-C", "alone", "group"])
    if way == "Ctrl-C":
        os.killpg(running.process.pid, signal.SIGINT)
        running.end()
        assert "Traceback" not in running.output, running.output
    elif way == "alone":
        running.kill()
    else:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.end()


def repaired(clone: Clone, tally: Tally, *words: str) -> None:
    began = time.monotonic()
    done = clone.invoke(*words)
    assert done.returncode == 0, done.stderr
    tally.worst = max(tally.worst, time.monotonic() - began)
    tally.repaired += 1
    assert not (clone.project_folder / "change.json").exists() and not (clone.project_folder / "move.json").exists()


def databases(clone: Clone) -> list[str]:
    return inspection.psql(clone, "SELECT datname FROM pg_database WHERE datname LIKE 'mlflow%'").split()


def load(clone: Clone, name: str, dump: str) -> None:
    """Plain SQL into a database of the project's server."""
    if clone.engine == "docker":
        inspection.output(
            "docker",
            "exec",
            "-i",
            inspection.container(clone, "postgres"),
            "psql",
            "-q",
            "-U",
            "mlflow",
            "-d",
            name,
            "-v",
            "ON_ERROR_STOP=1",
            stdin=dump,
        )
        return
    tool = inspection.programs(clone) / "psql"
    sockets = inspection.sockets(clone)
    inspection.output(str(tool), "-q", "-h", sockets, "-U", "mlflow", "-d", name, "-v", "ON_ERROR_STOP=1", stdin=dump)


def written(harness: Harness, tally: Tally) -> list[Write]:
    """Let the writers work for a second or two; what they were told."""
    harness.writers.go()
    time.sleep(harness.rng.uniform(0.5, 1.5))
    harness.writers.pause()
    writes = harness.writers.fresh()
    tally.acknowledged += len(writes)
    tally.refused += len(harness.writers.refusals())
    return writes


Get = Callable[[str], Harness]


@pytest.fixture(scope="module")
def own(clone_factory: Callable[..., Clone], harnesses: Harnesses) -> Get:
    """Projects of these tests' own: after a restore what was logged before it is gone, as it should be."""
    created: dict[str, Harness] = {}

    def get(engine: str) -> Harness:
        if engine not in created:
            clone = clone_factory(engine)
            clone.up()
            created[engine] = harnesses(clone)
        return created[engine]

    return get


@pytest.fixture
def changed(engine: str, own: Get, rng: random.Random) -> Harness:
    result = own(engine)
    result.rng = rng
    return result


def test_restore_interrupted(changed: Harness, tallies: dict[str, Tally], tmp_path: Path) -> None:
    clone = changed.clone
    tally = tallies.setdefault(f"{clone.engine}, restore interrupted", Tally())
    archived = written(changed, tally)
    clone.value("backup", f"--to={tmp_path}/a.tar")
    later = written(changed, tally)
    for _ in range(ROUNDS):
        interrupt(clone, ("restore", f"{tmp_path}/a.tar", "--yes"), (*RESTORE, *READ_BACK[clone.engine]), changed.rng)
        before = set(databases(clone))
        repaired(clone, tally, "up")
        assert set(databases(clone)) <= before and len(databases(clone)) <= 2, "a copy was left behind"
        assert lost(changed.url, archived) == []
        gone = lost(changed.url, later)
        if len(gone) not in (0, len(later)):
            tally.lost += gone
            pytest.fail(f"neither the old state nor the new one: {gone}")
        later = written(changed, tally) + ([] if gone else later)  # the new state does not have what came after it
        tally.rounds += 1


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, own: Get) -> tuple[str, list[Write]]:
    """A database that an old MLflow made, in plain SQL, and what it acknowledged."""
    clone, name = own("embedded").clone, "mlflow_made"
    python = old_venv(tmp_path_factory.mktemp("old") / "venv")
    inspection.create_database(clone, name)
    sockets = inspection.sockets(clone)
    reported = inspection.output(
        python, "-c", MAKE, f"postgresql+psycopg2://mlflow@/{name}?host={sockets}", timeout=300
    )
    tool = inspection.programs(clone) / "pg_dump"
    dump = inspection.output(str(tool), "-h", sockets, "-U", "mlflow", "-O", "--inserts", name)
    return dump, [json.loads(line) for line in reported.splitlines() if line.startswith("{")]


def test_upgrade_interrupted(changed: Harness, old: tuple[str, list[Write]], tallies: dict[str, Tally]) -> None:
    """From the database of an older MLflow. Whatever `up` says afterwards leads on, and the way back stays."""
    clone, (dump, writes) = changed.clone, old
    tally = tallies.setdefault(f"{clone.engine}, upgrade interrupted", Tally())
    for number in range(ROUNDS):
        name = f"mlflow_old{number}"
        inspection.create_database(clone, name)
        load(clone, name, dump)
        use_database(clone, name)
        before = set(databases(clone))
        interrupt(clone, ("upgrade",), UPGRADE, changed.rng)
        began = time.monotonic()
        done = clone.invoke("up")
        if done.returncode:
            inspection.refused(done, 1, "invoke upgrade")
            began = time.monotonic()
            repaired(clone, tally, "upgrade")
        tally.worst = max(tally.worst, time.monotonic() - began)
        live = inspection.psql(clone, "SELECT current_database()")
        assert set(databases(clone)) - before == {live}, "a copy was left behind, or the earlier database is gone"
        assert json.loads((clone.project_folder / "kept.json").read_text())["database"] == name
        missing = lost(changed.url, writes)
        tally.lost += missing
        assert not missing
        tally.rounds += 1
        tally.acknowledged += len(writes)


def test_move_interrupted(own: Get, rng: random.Random, tallies: dict[str, Tally]) -> None:
    """There and back; after each `up` everything is on one engine, and only there."""
    require_docker()
    harness = own("embedded")
    clone = harness.clone
    clone.environment.pop("TRACKBED_ENGINE", None)
    harness.rng = rng
    tally = tallies.setdefault("both, move interrupted", Tally())
    store = os.environ.get("TRACKBED_OBJECT_STORE", "auto")
    writes: list[Write] = []
    for _ in range(max(2, ROUNDS)):  # there, and back
        writes += written(harness, tally)
        to = {"embedded": "docker", "docker": "embedded"}[clone.engine]
        options = (f"--object-store={store}",) if to == "docker" else ()
        interrupt(clone, ("move", f"--to={to}", *options), (*MOVE, *READ_BACK[to]), rng)
        repaired(clone, tally, "up")
        clone.engine = str(json.loads(clone.value("status", "--format=json"))["engine"])
        assert (clone.project_folder / "embedded").exists() is (clone.engine == "embedded")
        assert bool(inspection.containers(clone)) is (clone.engine == "docker")
        missing = lost(harness.url, writes)
        tally.lost += missing
        assert not missing
        tally.rounds += 1
