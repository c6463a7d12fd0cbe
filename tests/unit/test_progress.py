"""How far a long copy is: a bar on a terminal, a line now and then otherwise."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from helpers import console


def drawn(progress: console.Progress) -> str:
    target = io.StringIO()
    Console(file=target, width=100).print(progress._draw())
    return target.getvalue()


def test_a_bar_with_its_share() -> None:
    progress = console.Progress()
    progress.amount("objects", 50, 200, "3 objects, 1 MiB/s")
    text = drawn(progress)
    assert "objects" in text and "25 %" in text and "3 objects, 1 MiB/s" in text and "━" in text
    progress.amount("objects", 200, 200, "9 objects")
    assert "100 %" in drawn(progress)


def test_a_bar_without_a_known_end_shows_no_share() -> None:
    progress = console.Progress()
    progress.amount("objects", 50, 0, "3 objects")
    assert "%" not in drawn(progress) and "3 objects" in drawn(progress)


def test_more_than_was_expected_is_no_error() -> None:
    progress = console.Progress()
    progress.amount("objects", 300, 200, "")
    assert "100 %" in drawn(progress)


def test_the_next_step_takes_the_bar_away(capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.Progress()
    progress.amount("verifying", 50, 200, "3 objects")
    progress.step("database")
    assert "verifying" not in drawn(progress)


def test_plain_lines_come_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = console.Progress()
    for _ in range(100):
        progress.amount("objects", int(clock[0]) - 100, 10, "some")
        clock[0] += 0.1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[0].endswith("objects: 30 %, some")
