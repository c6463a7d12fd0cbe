"""What `status` and `doctor` say of the artifacts and a power cut (helpers/durability.py)."""

from __future__ import annotations

import json

import pytest

from helpers import durability

FOUND = {"at": 1.0, "checked": 5, "by_size": 0, "missing": 0, "damaged": 0, "names": []}


def test_a_look_back_where_all_is_well() -> None:
    result = durability.parse(json.dumps(FOUND))
    assert result and result.ok
    assert str(result) == "after an unclean stop 5 artifacts were checked: all are whole"


def test_a_look_back_that_found_nothing_to_look_at() -> None:
    """As after a first start that failed: it said that 0 artifacts are whole."""
    result = durability.parse(json.dumps({**FOUND, "checked": 0}))
    assert str(result) == "after an unclean stop there was no artifact to check"


def test_what_is_missing_or_damaged_is_counted_and_named() -> None:
    result = durability.parse(json.dumps({**FOUND, "missing": 1, "damaged": 2, "by_size": 1, "names": ["a\x1b[2J"]}))
    assert result and not result.ok and result.names == ("a\\x1b[2J",)
    assert str(result).endswith("checked (1 of them by size only): 1 missing, 2 damaged")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"checked": 1}', "\0\0", json.dumps({**FOUND, "names": 3})])
def test_what_is_no_result_is_none(text: str) -> None:
    assert durability.parse(text) is None
