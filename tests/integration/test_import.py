"""`invoke import`: what really old clients logged is there afterwards, field by field; the source is as it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Clone, docker_answers
from tests.integration import imported
from tests.integration.snapshot import Server

pytestmark = pytest.mark.transfer
# one of each kind in every run; all of them with TRACKBED_IMPORTS=all, as the session `imports` has it
EVERY = os.environ.get("TRACKBED_IMPORTS") == "all"
FEW = (("embedded", "1.30", "folder"), ("docker", "3.0", "sqlite"))
ALL = tuple(
    (engine, version, kind)
    for engine in ("embedded", "docker")
    for version in imported.VERSIONS
    for kind in ("folder", "sqlite")
)


def hashes(folder: Path) -> dict[str, str]:
    """The content and the time of every file."""
    return {
        str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("engine, version, kind", ALL if EVERY else FEW)
def test_what_an_old_client_logged_arrives(
    clone_factory: Callable[..., Clone], tmp_path: Path, engine: str, version: str, kind: str
) -> None:
    if engine == "docker" and not docker_answers():
        pytest.skip("NOT TESTED: no Docker engine answers")
    source, expected = imported.unpack(version, tmp_path)
    words = [str(source if kind == "folder" else source / "mlflow.db")]
    if kind == "sqlite":
        words.append(f"--artifacts={imported.MADE}/{version}={source}")  # it has moved since
    clone = clone_factory(engine)
    clone.up()
    before = hashes(source)
    done = clone.invoke("import", *words)
    assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
    shown = clone.invoke("import", *words, "--dry-run")
    assert shown.returncode == 0 and "nothing was changed; the import takes about" in shown.stderr, shown.stderr
    assert shown.stdout == done.stdout
    assert hashes(source) == before, "the source was changed"
    server = Server(clone.url("mlflow"))
    assert imported.differences(imported.plain(expected[kind]), imported.said(server)) == []
    again = clone.invoke("import", *words)
    assert again.returncode == 1 and "has data of its own" in again.stderr
    assert imported.differences(imported.plain(expected[kind]), imported.said(server)) == []


@pytest.mark.skipif(not EVERY, reason="in the session imports; tests/unit/test_import_sources.py has its parts")
def test_a_source_that_lacks_artifacts_is_refused_in_words(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    """Nothing is pretended; what is missing is listed run by run, and --skip-missing imports the rest."""
    source, expected = imported.unpack("2.9", tmp_path)
    clone = clone_factory("embedded")
    clone.up()
    database = str(source / "mlflow.db")
    refused = clone.invoke("import", database)
    runs = expected["sqlite"]["runs"]
    assert refused.returncode == 1 and "nothing was imported" in refused.stderr
    listed = next((clone.project_folder / "backups").glob("not-imported-*.txt")).read_text("utf-8")
    assert all(f"run {run} " in listed for run in runs)
    server = Server(clone.url("mlflow"))
    assert len(list(server.pages("experiments/search", "experiments", view_type="ALL", max_results=10))) <= 1
    shutil.rmtree(source / "mlartifacts" / "two")
    mapped = f"--artifacts={imported.MADE}/2.9={source}"
    refused = clone.invoke("import", database, mapped)
    assert refused.returncode == 1 and "No such file or directory" in refused.stderr
    done = clone.invoke("import", database, mapped, "--skip-missing")
    assert done.returncode == 0 and "missing: " in done.stderr, done.stderr
    assert imported.said(server)["runs"].keys() == runs.keys()


@pytest.mark.skipif(not EVERY, reason="in the session imports; tests/unit/test_import_sources.py has its parts")
def test_a_link_in_the_source_is_not_followed(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    """A source may be made by whoever owns the notebook: nothing outside of it is read, whoever imports."""
    source, expected = imported.unpack("2.9", tmp_path)
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    run = next(run for run, facts in expected["folder"]["runs"].items() if "data.json" in facts["artifacts"])
    folder = next((source / "mlruns").glob(f"*/{run}"))
    (folder / "artifacts" / "link.txt").symlink_to(secret)
    (folder / "artifacts" / "up").symlink_to(tmp_path)
    with sqlite3.connect(source / "mlflow.db") as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (f"file://{tmp_path}",))
    clone = clone_factory("embedded")
    clone.up()
    for words in ([str(source)], [str(source / "mlflow.db")]):
        refused = clone.invoke("import", *words)
        assert refused.returncode == 1 and "nothing was imported" in refused.stderr
    done = clone.invoke("import", str(source), "--skip-missing")
    assert done.returncode == 0, done.stderr
    assert "link.txt is no plain file" in done.stderr
    said = imported.said(Server(clone.url("mlflow")))
    assert imported.differences(imported.plain(expected["folder"]), said) == []
