"""`invoke import` of sources that lack something or name what is not theirs."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Clone
from tests.imports import served_source
from tests.integration import imported, source_servers
from tests.integration.snapshot import Server


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


@pytest.mark.skipif(
    not shutil.which("mariadbd", path="/usr/sbin:/usr/bin"),
    reason="NOT TESTED: no MariaDB (Debian: apt install mariadb-server-core mariadb-client-core)",
)
@pytest.mark.parametrize("version", imported.VERSIONS)
def test_the_database_of_a_mariadb_server_arrives(
    clone_factory: Callable[..., Clone], tmp_path: Path, version: str
) -> None:
    served_source.check(clone_factory("embedded"), version, tmp_path, source_servers.mariadb, "mysql+pymysql")
