"""Another PostgreSQL major: its data stay, it is not migrated silently, and its archive opens with the newer one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import references
from tests.conftest import Clone, require_docker
from tests.integration import inspection
from tests.integration.test_backup import everything, experiment, log_run

pytestmark = [pytest.mark.docker, pytest.mark.transfer]
OLDER, OURS = "postgres:16-trixie", references.image("postgres").reference


def test_from_an_older_major_to_ours(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    require_docker()
    clone = clone_factory("docker")
    clone.environment["TRACKBED_POSTGRES_IMAGE"] = OLDER
    clone.up()
    served = inspection.output("docker", "exec", inspection.container(clone, "postgres"), "postgres", "--version")
    assert served.startswith("postgres (PostgreSQL) 16.")
    log_run(clone, experiment(clone), "old", b"x" * 1000)
    before = everything(clone)
    # the images before 18 have a volume of their own, which `down` would leave behind with the data in it
    assert clone.invoke("down").returncode == 0
    clone.up()
    assert everything(clone) == before

    archive = tmp_path / "old.tar"
    assert clone.invoke("backup", f"--to={archive}").returncode == 0
    assert clone.invoke("down").returncode == 0
    clone.environment["TRACKBED_POSTGRES_IMAGE"] = OURS
    inspection.refused(
        clone.invoke("up"), 1, "made by PostgreSQL 16", "is not migrated silently", "invoke restore FILE"
    )

    assert clone.invoke("down", "--delete-data", "--yes").returncode == 0
    clone.up()
    done = clone.invoke("restore", str(archive), "--yes")
    assert done.returncode == 0, done.stderr
    assert everything(clone) == before
    served = inspection.output("docker", "exec", inspection.container(clone, "postgres"), "postgres", "--version")
    assert served.startswith("postgres (PostgreSQL) 18.")
