"""helpers/cli/people.py: what the tasks about logins print."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.cli import people
from helpers.settings.flags import Flags


def test_a_project_without_logins_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    given: Flags = {"state_dir": str(tmp_path / "state"), "project": "lab"}
    people.list_users(given)
    printed = capsys.readouterr()
    assert printed.out == "" and "no logins yet; `invoke users.add NAME" in printed.err
    people.add_user(given, "ann")
    people.list_users(given)
    assert capsys.readouterr().out.splitlines()[-1] == "ann"
