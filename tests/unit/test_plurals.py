from __future__ import annotations

import pytest

from helpers.backups import create
from helpers.plurals import counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 objects"), (1, "1 object"), (2, "2 objects")])
def test_numbers_of_things(number: int, said: str) -> None:
    assert counted(number, "object") == said


def test_a_backup_with_one_of_each_says_so() -> None:
    manifest = {
        "tables": {"runs": ("1", ""), "metrics": ("1", "")},
        "objects": 1,
        "object_bytes": 0,
        "schema": "",
        "made": "now",
    }
    assert create.words(manifest) == "1 run, 1 metric, 1 object (0.0 MiB), schema none, made now"
