"""Backup and restore as a user types them: what was logged is there afterwards, on either engine."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Clone, require_docker
from tests.integration import inspection

pytestmark = pytest.mark.transfer


def api(clone: Clone, path: str, method: str = "GET", **content: Any) -> Any:
    """An answer of MLflow's REST API."""
    posted = method == "POST"
    answer = requests.request(
        method,
        f"{clone.url('mlflow')}/api/2.0/mlflow/{path}",
        timeout=60,
        json=content if posted else None,
        params=None if posted else content,
    )
    answer.raise_for_status()
    return answer.json()


def put(clone: Clone, run: dict[str, Any], name: str, content: bytes) -> None:
    root = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    requests.put(
        f"{clone.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/{root}/{name}", data=content, timeout=60
    ).raise_for_status()


def get(clone: Clone, run: dict[str, Any], name: str) -> bytes:
    root = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    answer = requests.get(f"{clone.url('mlflow')}/api/2.0/mlflow-artifacts/artifacts/{root}/{name}", timeout=60)
    answer.raise_for_status()
    return answer.content


def log_run(clone: Clone, experiment: str, name: str, content: bytes) -> dict[str, Any]:
    """A run with a metric and, before the tag that says so, an artifact; as the server has it."""
    run = api(clone, "runs/create", "POST", experiment_id=experiment, run_name=name, start_time=1)["run"]
    identity = run["info"]["run_id"]
    put(clone, run, "ä file.bin", content)
    api(
        clone,
        "runs/log-batch",
        "POST",
        run_id=identity,
        metrics=[{"key": "m", "value": 0.1, "timestamp": 1, "step": 2}],
        params=[{"key": "p", "value": "ü"}],
        tags=[{"key": "artifact", "value": "ä file.bin"}],
    )
    return dict(api(clone, "runs/get", run_id=identity)["run"])


def experiment(clone: Clone) -> str:
    return str(api(clone, "experiments/create", "POST", name=f"e {time.time_ns()}")["experiment_id"])


def everything(clone: Clone) -> list[dict[str, Any]]:
    """Every run with the content of the artifact that it points to."""
    ids = [e["experiment_id"] for e in api(clone, "experiments/search", max_results=1000)["experiments"]]
    runs = api(clone, "runs/search", "POST", experiment_ids=ids, max_results=5000).get("runs", [])
    for run in runs:
        names = [tag["value"] for tag in run["data"].get("tags", []) if tag["key"] == "artifact"]
        run["files"] = [get(clone, run, name).hex() for name in names]
    return sorted(runs, key=lambda run: run["info"]["run_id"])


def test_back_up_while_writing_and_restore_elsewhere(pair: tuple[Clone, Clone], tmp_path: Path) -> None:
    """No run in the archive points to an artifact that is not in it, and what was logged before is equal."""
    source, target = pair
    chosen = experiment(source)
    rng = random.Random(1)
    for number in range(10):
        log_run(source, chosen, f"run {number}", rng.randbytes(number * 1000))
    log_run(source, chosen, "big", rng.randbytes(20_000_000))
    before = everything(source)
    work = source.project_folder / "workspace"
    (work / "sub ä").mkdir(exist_ok=True)
    for name in ("first.ipynb", "sub ä/data.csv"):
        (work / name).write_text(f"of {chosen}")
    (work / "out").symlink_to("/etc/passwd")
    running = source.start("backup", f"--to={tmp_path}/a.tar", "--with-workspace")
    while running.process.poll() is None:
        log_run(source, chosen, "meanwhile", rng.randbytes(100_000))
    assert running.end() == 0, running.output
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o600
    done = target.invoke("restore", f"{tmp_path}/a.tar", "--yes")
    assert done.returncode == 0, done.stderr
    # only a folder confirms nothing of what it has stored
    assert ("reading the objects back" in done.stderr) == (target.engine == "embedded"), done.stderr
    after = everything(target)  # reads the artifact of every run
    assert before == [run for run in after if run["info"]["run_id"] in {r["info"]["run_id"] for r in before}]
    assert re.search(r"\n +out: is a link that leads out of the workspace\n", running.output)
    assert re.search(r"^workspace: \d+ files of the backup", done.stderr, re.MULTILINE)
    restored = target.project_folder / "workspace"
    for name in ("first.ipynb", "sub ä/data.csv"):
        (path,) = (path for path in restored.rglob(name) if path.read_text() == f"of {chosen}")
        assert path.stat().st_uid == restored.stat().st_uid and path.stat().st_mtime == (work / name).stat().st_mtime
    assert target.invoke("check").returncode == 0


def test_a_damaged_archive_changes_nothing(pair: tuple[Clone, Clone], tmp_path: Path) -> None:
    source, _ = pair
    source.value("backup", f"--to={tmp_path}/a.tar")
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "b.tar").write_bytes(content)
    before, state = everything(source), (source.project_folder / "state.json").read_bytes()
    done = source.invoke("restore", f"{tmp_path}/b.tar", "--yes")
    assert done.returncode == 1 and "damaged" in done.stderr and "Traceback" not in done.stderr
    assert (source.project_folder / "state.json").read_bytes() == state and everything(source) == before


def test_restore_killed_at_any_moment(pair: tuple[Clone, Clone], tmp_path: Path) -> None:
    """`kill -9` leaves the old state or the new one, whole; the next `up` removes the other."""
    source, _ = pair
    source.value("backup", f"--to={tmp_path}/a.tar")
    new = everything(source)
    log_run(source, experiment(source), "not in the archive", b"x")
    old = everything(source)
    seed = random.randrange(2**32)
    sys.stderr.write(f"seed {seed}\n")
    chosen = random.Random(seed)
    began = time.monotonic()
    assert source.invoke("restore", f"{tmp_path}/a.tar", "--yes").returncode == 0
    whole = time.monotonic() - began
    assert everything(source) == new
    for _ in range(3):
        log_run(source, experiment(source), "not in the archive", b"x")
        old = everything(source)
        running = source.start("restore", f"{tmp_path}/a.tar", "--yes")
        time.sleep(chosen.uniform(0, whole))
        running.kill()
        source.up()
        assert everything(source) in (old, new)
        assert not (source.project_folder / "change.json").exists()
    live = json.loads((source.project_folder / "state.json").read_bytes())["live"]
    assert live["database"]


def test_a_state_folder_lost_after_a_restore(own: dict[str, Clone], tmp_path: Path) -> None:
    if "docker" not in own:
        require_docker()
    clone = own["docker"]
    archived = clone.value("backup", f"--to={tmp_path / 'lost.tar'}")
    assert clone.invoke("restore", archived, "--yes", timeout=600).returncode == 0
    kept = inspection.new_run(clone)
    assert json.loads((clone.project_folder / "state.json").read_text())["live"]["database"] != "mlflow"
    assert clone.invoke("down").returncode == 0
    shutil.rmtree(clone.project_folder)
    adopted = clone.invoke("up", "--adopt", timeout=600)
    assert adopted.returncode == 0, adopted.stderr
    assert inspection.has_run(clone, kept)


def test_gc_shows_first_and_removes_runs_with_their_artifacts(deployment: Clone) -> None:
    chosen = experiment(deployment)
    kept, gone = (log_run(deployment, chosen, name, b"content") for name in ("kept", "gone"))
    api(deployment, "runs/delete", "POST", run_id=gone["info"]["run_id"])
    time.sleep(1.1)
    assert deployment.invoke("gc", "--older-than=nonsense").returncode == 2
    rows = [line.split() for line in deployment.value("gc", "--older-than=1s").splitlines()]
    assert [chosen, "1", "0", "1", "<0.1"] in rows, rows
    used = {e["identity"]: e for e in json.loads(deployment.value("usage", "--format=json"))["experiments"]}
    assert used[chosen]["objects"] == 2 and used[chosen]["size"] == 14 and used[chosen]["runs"] == 2
    deployment.value("gc", "--older-than=1s", "--yes")
    used = {e["identity"]: e for e in json.loads(deployment.value("usage", "--format=json"))["experiments"]}
    assert used[chosen]["objects"] == 1 and used[chosen]["runs"] == 1
    assert get(deployment, kept, "ä file.bin") == b"content"


def there_and_back(clone: Clone, other: str, moved: Callable[[], None] = lambda: None) -> None:
    """Move a project that is up to another engine and back: everything that was logged goes along each time. ``moved``
    looks at the rest."""
    home = clone.engine
    del clone.environment["TRACKBED_ENGINE"]
    chosen = experiment(clone)
    for number in range(5):
        log_run(clone, chosen, f"run {number}", b"x" * number)
    before = everything(clone)
    for to in (other, home):
        if to == "embedded" and os.geteuid() == 0:  # as Docker's first start makes it: not the embedded account's
            inspection.output("chown", "-hR", "1000:100", str(clone.project_folder / "workspace"))
        store = [] if to == "embedded" else [f"--object-store={os.environ.get('TRACKBED_OBJECT_STORE', 'auto')}"]
        done = clone.invoke("move", f"--to={to}", *store)
        assert done.returncode == 0, done.stderr
        assert json.loads(clone.value("status", "--format=json"))["engine"] == to
        assert everything(clone) == before
        moved()
        clone.up()  # goes on with the same engine and store
        assert everything(clone) == before
        assert (clone.project_folder / "embedded").exists() is (to == "embedded")
        assert not (clone.project_folder / "move.json").exists()


def test_move_there_and_back(clone_factory: Callable[..., Clone]) -> None:
    """Everything that was logged is on the other engine, and back; the side that is left holds nothing."""
    require_docker()
    clone = clone_factory("embedded")
    clone.up()
    there_and_back(clone, "docker")
