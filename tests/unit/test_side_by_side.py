"""Questions asked at once: the answers keep their order, and the first failure is the one that is told."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from helpers import side_by_side
from tests.conftest import PATIENCE


def test_each_waits_for_the_others_and_answers_in_order() -> None:
    met = threading.Barrier(3, timeout=PATIENCE)

    def answer(number: int) -> int:
        met.wait()
        return number

    assert side_by_side.each(partial(answer, number) for number in range(3)) == [0, 1, 2]
    assert side_by_side.ask(lambda: "a", lambda: 2) == ("a", 2)
    assert side_by_side.each([]) == []


def test_one_after_the_other_where_nobody_can_be_asked_at_once() -> None:
    here = threading.get_ident()
    assert side_by_side.each([threading.get_ident, threading.get_ident], at_once=False) == [here, here]


def test_the_first_failure_is_raised_once_all_have_ended() -> None:
    ended = threading.Event()

    def fail(why: str) -> str:
        raise ValueError(why)

    with pytest.raises(ValueError, match="first"):
        side_by_side.ask(lambda: fail("first"), ended.set, lambda: fail("second"))
    assert ended.is_set()


def test_what_is_begun_goes_on_meanwhile_and_is_waited_for_when_it_is_needed() -> None:
    go, done = threading.Event(), threading.Event()

    def answer() -> int:
        assert go.wait(PATIENCE)
        done.set()
        return 7

    finish = side_by_side.begin(answer)
    assert not done.is_set()
    go.set()
    assert finish() == finish() == 7

    def fail() -> int:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        side_by_side.begin(fail)()
