"""What an interrupted change leaves, and what settling it removes: never what is active, never what is kept."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers import lifecycle, status, usage
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


def test_what_an_interrupted_import_stored_stays_until_it_is_released(tmp_path: Path, dropped: list[str]) -> None:
    state = State(tmp_path, active={"database": "a", "prefix": "p"})
    journal.hold(state, "folder /mlruns", "q")
    recovered(tmp_path, "a", {"database": "b", "prefix": "q"})
    held = journal.held(state)
    assert dropped == ["b"] and held and (held.source, held.prefix) == ("folder /mlruns", "q")
    recovered(tmp_path, "a", {"database": "c", "prefix": "r"})  # another command was interrupted
    assert dropped == ["b", "c", "r"] and journal.held(state) == held
    journal.drop_held(state, cast(Any, None), cast(Any, SimpleNamespace(step=lambda text: None)))
    assert dropped[3:] == ["q"] and journal.held(state) is None


def test_what_is_active_is_never_what_an_interrupted_import_left(tmp_path: Path, dropped: list[str]) -> None:
    """It was killed between the switch and the end."""
    state = State(tmp_path, active={"database": "a", "prefix": "p"})
    journal.hold(state, "folder /mlruns", "q")
    state = recovered(tmp_path, "b", {"database": "b", "prefix": "q"})
    assert dropped == ["a", "p"] and journal.held(state) is None
    journal.drop_held(state, cast(Any, None), cast(Any, None))
    assert dropped == ["a", "p"] and not (tmp_path / journal.IMPORTED).exists()


def test_a_note_of_stored_artifacts_that_is_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / journal.IMPORTED).write_text("{")
    with pytest.raises(TrackbedError, match="is damaged") as error:
        journal.held(State(tmp_path))
    assert f"rm {tmp_path / journal.IMPORTED}" in error.value.hint


@pytest.mark.parametrize(("age", "goes"), [("30d", False), ("0s", True)])
def test_gc_removes_what_an_interrupted_import_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropped: list[str], age: str, goes: bool
) -> None:
    state = State(tmp_path, active={"database": "a", "prefix": "p"})
    journal.hold(state, "folder /mlruns", "q")
    project = cast(Any, SimpleNamespace(state=state))
    monkeypatch.setattr(lifecycle, "changing", lambda *_: nullcontext())
    monkeypatch.setattr(status, "running", lambda _: None)
    monkeypatch.setattr(usage, "_collector", lambda *_: usage.Garbage((), 0, 0))
    assert usage.interrupted_import(project, age) is goes
    usage.collect(project, age, cast(Any, SimpleNamespace(step=lambda text: None)), print)
    assert dropped == (["q"] if goes else []) and (journal.held(state) is None) is goes
