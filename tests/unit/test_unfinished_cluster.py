"""A data folder is made again only when initdb alone has ever written to it, and never when it has been good."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from helpers.engines.database_roles import READY
from helpers.engines.docker import unfinished_cluster
from tests.conftest import PATIENCE

INITDB = ("1", "4", "5", "112", "1259_fsm", "13487", "PG_VERSION", "pg_filenode.map", "pg_internal.init")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), True),
        (("16383",), True),
        (("16384",), False),
        (("16385_vm",), False),
        (("24576.1",), False),
        (("100000",), False),
        (("t3_16400",), False),
        (("t3_5",), True),
    ],
)
def test_what_came_after_initdb_has_a_number_of_its_own(more: tuple[str, ...], expected: bool) -> None:
    assert unfinished_cluster.unused((*INITDB, *more)) is expected


def look(folder: Path) -> unfinished_cluster.Folder:
    script = unfinished_cluster.LOOK.replace("/v/", f"{folder}/")
    done = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": os.environ["PATH"], "PG_MAJOR": "18"},
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return unfinished_cluster.read(done.stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / unfinished_cluster.DATA
    (folder / "base" / "1").mkdir(parents=True)
    (folder / "pg_tblspc").mkdir()
    (folder / "base" / "1" / "1259").touch()
    (folder / "PG_VERSION").write_text("18\n")
    return folder


def test_killed_inside_initdb(data: Path, tmp_path: Path) -> None:
    assert look(tmp_path) == unfinished_cluster.Folder("18", ("18",), False, True)


def test_marked_or_used_it_stays(data: Path, tmp_path: Path) -> None:
    (data / "base" / "16384").mkdir()
    assert not look(tmp_path).unfinished
    (data / "base" / "16384").rmdir()
    (data / "pg_tblspc" / "16400").mkdir()
    assert not look(tmp_path).unfinished
    (data / "pg_tblspc" / "16400").rmdir()
    (data / READY).touch()
    assert look(tmp_path) == unfinished_cluster.Folder("18", ("18",), True, False)


def test_what_cannot_be_listed_stays(data: Path, tmp_path: Path) -> None:
    """A database that has lost its folder `base` is damaged, not unfinished."""
    (data / "global").mkdir()
    (data / "global" / "pg_control").touch()
    (data / "base").rename(data / "lost")
    assert not look(tmp_path).unfinished


def test_the_first_folders_only(tmp_path: Path) -> None:
    (tmp_path / unfinished_cluster.DATA / "pg_wal").mkdir(parents=True)
    assert look(tmp_path).unfinished


def test_nothing_there(tmp_path: Path) -> None:
    assert look(tmp_path) == unfinished_cluster.Folder("18", (), False, False)
    (tmp_path / unfinished_cluster.DATA).mkdir(parents=True)
    assert not look(tmp_path).unfinished
