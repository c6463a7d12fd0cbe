"""The steps of a benchmark: what runs, and that its projects are taken down."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks import steps


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (None, ["fill", "measure", "down"]),
        ("fill", ["fill"]),
        ("measure", ["measure"]),
        ("remove", ["down"]),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_all_steps_or_one_and_the_projects_go_also_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str | None, expected: list[str], fails: bool
) -> None:
    done: list[str] = []
    place = tmp_path / "projects"
    place.mkdir()

    class System:
        def invoke(self, *words: str) -> None:
            assert words == ("down", "--delete-data", "--yes") and place.exists()
            done.append(words[0])

    def measure() -> None:
        done.append("measure")
        if fails:
            raise KeyError("measure")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    try:
        steps.run(step, {"fill": lambda: done.append("fill"), "measure": measure}, [System()], place)
    except KeyError:
        assert fails
    assert done == expected and place.exists() == ("down" not in expected)
