"""`invoke import` into a project in the cluster: the source lies on this machine, and all of it arrives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Clone
from tests.integration import imported
from tests.integration.snapshot import Server


def test_a_file_and_a_folder_arrive(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    source, expected = imported.unpack("2.9", tmp_path)
    clone = clone_factory("kubernetes")
    clone.up()
    words = [str(source / "mlflow.db"), f"--artifacts={imported.MADE}/2.9={source}"]
    done = clone.invoke("import", *words)
    assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
    server = Server(clone.url("mlflow"))
    assert imported.differences(imported.plain(expected["sqlite"]), imported.said(server)) == []
    again = clone.invoke("import", *words)
    assert again.returncode == 0 and "has all of the source already" in again.stderr, again.stderr
    beside = clone.invoke("import", str(source / "mlruns"), words[1])
    assert beside.returncode == 0 and "becomes 'two-imported'" in beside.stderr, beside.stderr
    arrived = set(imported.said(server)["runs"])
    assert set(expected["folder"]["runs"]) | set(expected["sqlite"]["runs"]) <= arrived
