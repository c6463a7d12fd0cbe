"""Rows that an old client wrote, in a database server of MySQL's kind, imported and compared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.conftest import Clone
from tests.integration import imported, source_servers
from tests.integration.snapshot import Server


def check(
    clone: Clone,
    version: str,
    unpacked: Path,
    serve: Callable[[Clone, Path], AbstractContextManager[Path]],
    dialect: str,
) -> None:
    """``dialect``: how the address begins, as in "mysql"; what is not so fails an assertion."""
    source, expected = imported.unpack(version, unpacked)
    clone.up()
    with serve(clone, source / "mlflow.db") as folder:
        words = [f"{dialect}://{source_servers.USER}@/source?unix_socket={folder / 's'}"]
        words.append(f"--artifacts={imported.MADE}/{version}={source}")
        before = source_servers.checksums(folder)
        refused = clone.invoke("import", *words, MYSQL_PWD="wrong")
        assert refused.returncode == 1 and "MYSQL_PWD" in refused.stderr, refused.stderr
        done = clone.invoke("import", *words, MYSQL_PWD=source_servers.PASSWORD)
        assert done.returncode == 0 and "every row was read back" in done.stderr, done.stderr
        assert source_servers.checksums(folder) == before, "the source was changed"
        assert source_servers.PASSWORD not in f"{refused.stderr}{done.stderr}"
    assert imported.differences(imported.plain(expected["sqlite"]), imported.said(Server(clone.url("mlflow")))) == []
