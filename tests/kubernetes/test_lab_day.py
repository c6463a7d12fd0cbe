"""A lab day: build, up with a GPU word, check, a notebook's run, backup, move from Docker and back, down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Clone
from tests.integration.test_backup import everything, experiment, log_run, there_and_back
from tests.integration.test_platform import NOTEBOOK
from tests.integration.workload import Lab
from tests.kubernetes import cluster


def test_a_lab_day(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    clone = clone_factory("kubernetes", gpu="mi100")
    clone.up()
    checked = clone.invoke("check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    notebook = cluster.pods(clone.project, "jupyter")[0]
    assert notebook["spec"]["containers"][0]["resources"]["limits"]["amd.com/gpu"] == "1"
    assert notebook["spec"]["nodeName"] == "node1"
    trained = Lab(clone.value("jupyter-url")).run_notebook(NOTEBOOK).result
    log_run(clone, experiment(clone), "kept", b"content")
    before = everything(clone)
    archive = tmp_path / "lab.trackbed"
    done = clone.invoke("backup", f"--to={archive}")
    assert done.returncode == 0, done.stderr
    log_run(clone, experiment(clone), "later", b"")
    done = clone.invoke("restore", str(archive), "--yes")
    assert done.returncode == 0, done.stderr
    assert everything(clone) == before
    assert trained["run_id"] in {run["info"]["run_id"] for run in before}
    done = clone.invoke("down", "--delete-data", "--yes")
    assert done.returncode == 0, done.stderr
    assert cluster.objects("persistentvolumeclaims", clone.project) == []
    assert f"namespace/{clone.project}" not in cluster.kubectl("get", "namespaces", "--output=name").split()


def test_move_from_docker_and_back(clone_factory: Callable[..., Clone]) -> None:
    clone = clone_factory("docker")
    clone.up()
    there_and_back(clone, "kubernetes")
