"""What an interrupted change leaves, and what settling it removes: never what is active, never what is kept."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import lifecycle, status
from helpers.backups import create, upgrade
from helpers.data import artifacts, database, journal
from helpers.errors import TrackbedError
from helpers.project.state import State

KEPT = {"database": "a", "prefix": "p", "schema": "s", "image": "", "archive": "x.tar", "at": "then"}


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    result: list[str] = []
    monkeypatch.setattr(database, "drop", lambda engine, name: result.append(name))
    monkeypatch.setattr(artifacts, "drop", lambda engine, prefix: result.append(prefix))
    return result


def recovered(tmp_path: Path, active: str, new: dict[str, str], kept: dict[str, str] | None = None) -> State:
    state = State(tmp_path, active={"database": "a", "prefix": "p"})
    journal.open_change(state, "embedded", new, kept)
    state.active = {"database": active, "prefix": new["prefix"] if active == new["database"] else "p"}
    journal.recover(state, cast(Any, None), cast(Any, SimpleNamespace(step=lambda text: None)))
    assert journal.read(state) is None
    return state


def test_a_restore_interrupted_before_and_after_its_step(tmp_path: Path, dropped: list[str]) -> None:
    recovered(tmp_path, "a", {"database": "b", "prefix": "q"})
    assert dropped == ["b", "q"]
    dropped.clear()
    recovered(tmp_path, "b", {"database": "b", "prefix": "q"})
    assert dropped == ["a", "p"]


def test_an_upgrade_interrupted_before_its_step_has_nothing_to_go_back_to(tmp_path: Path, dropped: list[str]) -> None:
    state = recovered(tmp_path, "a", {"database": "b", "prefix": "p"}, KEPT)
    assert dropped == ["b"] and not (state.folder / journal.KEPT).exists()


def test_an_upgrade_interrupted_after_its_step_keeps_the_old_database(tmp_path: Path, dropped: list[str]) -> None:
    state = recovered(tmp_path, "b", {"database": "b", "prefix": "p"}, KEPT)
    assert dropped == [] and json.loads((state.folder / journal.KEPT).read_bytes()) == KEPT


def test_a_way_back_names_what_is_left_only(tmp_path: Path, dropped: list[str]) -> None:
    same = {"database": "a", "prefix": "p"}
    recovered(tmp_path, "a", same)
    assert dropped == []
    state = State(tmp_path, active=same)
    journal.open_change(state, "embedded", same)
    state.active = {"database": "kept", "prefix": "p"}
    journal.recover(state, cast(Any, None), cast(Any, SimpleNamespace(step=lambda text: None)))
    assert dropped == ["a"]


def test_no_way_back_to_what_is_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropped: list[str]) -> None:
    """A note of an upgrade that never took its step names the active database, which `--back` would remove as left."""
    (tmp_path / journal.KEPT).write_text(json.dumps(KEPT))
    state = State(tmp_path, active={"database": "a", "prefix": "p"})
    project = SimpleNamespace(settings=SimpleNamespace(folder=tmp_path), state=state)
    monkeypatch.setattr(lifecycle, "changing", lambda *_: nullcontext())
    monkeypatch.setattr(status, "running", lambda _: None)
    monkeypatch.setattr(create, "need", lambda *_: None)
    with pytest.raises(TrackbedError, match="active one already"):
        upgrade.back(cast(Any, project), cast(Any, None), print)
    assert dropped == [] and state.active["database"] == "a"
