"""Commands that end by themselves: their output, their end, and why they could not be begun."""

from __future__ import annotations

import pytest

from helpers import commands, deadline


def test_a_command_that_cannot_be_begun_says_why() -> None:
    done = commands.attempt(["/no/such/program"], 5)
    assert done.code == commands.NOT_BEGUN and "/no/such/program" in done.stderr
    with pytest.raises(OSError, match="no/such"):
        commands.run(["/no/such/program"], None, 5)


def test_a_command_that_does_not_end_is_ended() -> None:
    done = commands.attempt(["sleep", "600"], 0.2)
    assert (done.code, done.stderr) == (124, "no end after 0 s")


@pytest.mark.parametrize("limited", [False, True])
def test_both_streams_and_the_code(limited: bool) -> None:
    done = commands.attempt(["sh", "-c", "printf out; printf '\\377' >&2; exit 3"], 20, limited=limited)
    assert (done.code, done.stdout, done.stderr) == (3, "out", "\ufffd")


def test_a_limited_one_cannot_fill_the_memory() -> None:
    done = commands.attempt(["head", "-c", str(2 * deadline.MOST), "/dev/zero"], 60, limited=True)
    assert done.code and not done.stdout
