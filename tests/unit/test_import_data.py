"""The sources that the tests of `invoke import` read say of their artifacts what lies there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.integration import imported

PLACES = {"folder": "mlruns", "sqlite": "mlartifacts"}


@pytest.mark.parametrize("version", imported.VERSIONS)
def test_a_source_says_what_it_has(version: str, tmp_path: Path) -> None:
    source, expected = imported.unpack(version, tmp_path)
    compared = 0
    for kind, place in PLACES.items():
        folders = {path.parent.name: path for path in (source / place).rglob("artifacts") if path.is_dir()}
        for run, facts in expected[kind]["runs"].items():
            for name, digest in facts["artifacts"].items():
                path = folders[run] / name
                assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{kind} {run} {name}"
                compared += 1
    assert compared
