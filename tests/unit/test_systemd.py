"""The systemd unit of `up --on-boot`: its text, and that systemd itself takes it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from helpers import commands, lifecycle
from helpers import systemd as units
from helpers.engines.embedded import systemd
from helpers.errors import TrackbedError
from helpers.services import ExecResult
from tests.unit.fakes import project


def test_the_units_text(tmp_path: Path) -> None:
    settings = project(tmp_path, engine="embedded", project="lab").settings
    text = systemd.unit(settings, "/venv/bin/python", "/usr/bin:/bin", as_root=True)
    where = f"--project=lab --state-dir={tmp_path}/state"
    assert f"ExecStart=/venv/bin/python -m invoke up {where}\n" in text
    assert f"ExecStop=/venv/bin/python -m invoke down {where}\n" in text
    assert f"WorkingDirectory={tmp_path}/clone\n" in text
    assert "WantedBy=multi-user.target" in text
    assert "WantedBy=default.target" in systemd.unit(settings, "/venv/bin/python", "/bin", as_root=False)


def verified(unit: Path) -> str:
    """What systemd itself says of a unit's file."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("NOT TESTED: no systemd-analyze on this machine")
    done = subprocess.run(
        [analyze, "verify", str(unit)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    return done.stderr


@pytest.mark.parametrize("folder", ["plain", "with space", "per%cent", "ümlaut", "semi;colon"])
def test_systemd_takes_the_unit(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    (place / "clone").mkdir(parents=True)
    settings = project(place, engine="embedded").settings
    python = place / "python"
    python.symlink_to(sys.executable)
    unit = tmp_path / systemd.name(settings)
    unit.write_text(systemd.unit(settings, str(python), f"{place}:/usr/bin", as_root=True))
    said = [line for line in verified(unit).splitlines() if unit.name in line]
    assert not said, said


def test_systemd_refuses_another_text(tmp_path: Path) -> None:
    """That the test above can fail."""
    unit = tmp_path / "trackbed-x.service"
    unit.write_text("[Service]\nType=oneshot\nExecStart=not-absolute/python\n")
    assert unit.name in verified(unit)


def test_without_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "RUNNING", tmp_path / "nothing")
    one = project(tmp_path, engine="embedded")
    one.state.engine = "embedded"
    with pytest.raises(TrackbedError, match="systemd did not start") as caught:
        lifecycle.start_at_boot(one, True)
    assert "-m invoke up --project=trackbed" in caught.value.hint
    one.state.engine = "docker"
    assert "restarts the containers" in lifecycle.start_at_boot(one, True)[0]
    assert lifecycle.start_at_boot(one, False) == ()


def test_a_unit_of_the_other_engine_goes_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `invoke move --to=docker`."""
    unit = tmp_path / "trackbed-trackbed.service"
    unit.write_text("")
    monkeypatch.setattr(units, "RUNNING", tmp_path / "nothing")
    monkeypatch.setattr(systemd, "path", lambda settings: unit)
    one = project(tmp_path)
    one.state.engine = "docker"
    assert "was removed" in lifecycle.start_at_boot(one, False)[0] and not unit.exists()


@pytest.mark.parametrize("given", [None, "somebody else's", "own"])
def test_the_users_manager_is_found_from_any_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """Before, a user with linger had no systemd in a shell that su or sudo had made."""
    monkeypatch.setattr(units, "RUNTIME", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1600)
    monkeypatch.setattr(units, "_is_ours", lambda folder: folder in (tmp_path / "1600", Path("own")))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if given:
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
    asked: list[str] = []

    def attempt(argv: object, timeout: float, env: Mapping[str, str] = os.environ) -> ExecResult:
        asked.append(env["XDG_RUNTIME_DIR"])
        return ExecResult(0, "", "")

    monkeypatch.setattr(commands, "attempt", attempt)
    units.ask("daemon-reload")
    assert asked == ["own" if given == "own" else str(tmp_path / "1600")]


def test_who_has_linger_is_not_told_to_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "LINGER", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    name = pwd.getpwuid(1).pw_name
    assert not units.lingers()
    (tmp_path / name).touch()
    assert units.lingers()
