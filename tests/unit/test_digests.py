"""What a digest sees."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from helpers import digests


def allowed(host: str, patterns: list[str]) -> bool:
    """MLflow's own rule: equal, or fnmatch where the entry has a star."""
    return any(fnmatch.fnmatch(host, p) if "*" in p else host == p for p in patterns)


def test_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = digests.folder_digest(tmp_path)
    (tmp_path / "a").write_text("2")
    second = digests.folder_digest(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, digests.folder_digest(tmp_path)}) == 3


def test_the_name_of_a_data_class_does_not_count() -> None:
    @dataclass
    class Before:
        command: tuple[str, ...]

    @dataclass
    class After:
        command: tuple[str, ...]

    assert digests.digest(Before(("a",))) == digests.digest(After(("a",))) != digests.digest(After(("b",)))
