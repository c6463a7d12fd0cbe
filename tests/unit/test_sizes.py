"""Bytes in words (helpers/sizes.py), and lines that are told once (helpers/services.py)."""

from __future__ import annotations

import pytest

from helpers import services, sizes


@pytest.mark.parametrize(
    ("size", "digits", "said", "cell"),
    [
        (0, 1, "0.0 MiB", "0.0"),
        (1, 1, "1 byte", "<0.1"),
        (6, 1, "6 bytes", "<0.1"),
        (1024, 1, "1.0 KiB", "<0.1"),
        (52428, 1, "51.2 KiB", "<0.1"),
        (52429, 1, "0.1 MiB", "0.1"),
        (400000, 0, "390.6 KiB", "0.4"),
        (3 * 2**20, 1, "3.0 MiB", "3.0"),
        (3 * 2**20, 0, "3 MiB", "3.0"),
    ],
)
def test_what_takes_little_takes_something(size: int, digits: int, said: str, cell: str) -> None:
    assert (sizes.mib(size, digits), sizes.cell(size)) == (said, cell)


def test_a_line_that_two_steps_tell_is_told_once() -> None:
    told: list[str] = []
    notice = services.once(told.append)
    for line in ("local access: open", "started", "local access: open"):
        notice(line)
    assert told == ["local access: open", "started"]
