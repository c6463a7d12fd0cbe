"""JupyterLab finds language servers of npm's without running it at each start (trackbed_notebook/language_servers.py)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import clone
from tests.unit.fakes import module_at

language_servers = module_at(clone.NOTEBOOK_PACKAGE / "language_servers.py")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm as Node.js brings it, and nothing that sets it otherwise."""
    package = tmp_path / "node" / "lib" / "node_modules" / "npm"
    (package / "bin").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    programs = tmp_path / "node" / "bin"
    programs.mkdir()
    for program in (package / "bin" / "npm-cli.js", programs / "node"):
        program.write_text("")
        program.chmod(0o755)
    (programs / "npm").symlink_to(package / "bin" / "npm-cli.js")
    for name in [*os.environ]:
        if name in ("PREFIX", "DESTDIR") or name.lower().startswith("npm_config_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setattr(language_servers, "SYSTEM_FILE", tmp_path / "npmrc")
    return programs / "npm"


def started(npm: Path) -> tuple[Any, list[str]]:
    """What the manager of language servers is told where npm installs, and how often npm ran."""
    runs: list[str] = []

    def asks(program: str) -> str:
        runs.append(program)
        return "what npm says"

    server = SimpleNamespace(language_server_manager=SimpleNamespace(_npm_prefix=asks))
    language_servers._load_jupyter_server_extension(server)
    return server.language_server_manager._npm_prefix(str(npm)), runs


def test_npm_is_not_run_where_nobody_has_set_another_place(npm: Path, tmp_path: Path) -> None:
    assert started(npm) == (str(tmp_path / "node"), [])


@pytest.mark.parametrize("file", ["home/.npmrc", "npmrc", "node/etc/npmrc", "node/lib/node_modules/npm/npmrc"])
def test_npm_is_asked_where_a_file_sets_it(npm: Path, tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("cafile=/etc/ca.pem\n")
    assert started(npm) == (str(tmp_path / "node"), [])
    (tmp_path / file).write_text("cafile=/etc/ca.pem\nprefix = ~/.npm-global\n")
    assert started(npm) == ("what npm says", [str(npm)])


@pytest.mark.parametrize("name", ["PREFIX", "DESTDIR", "npm_config_prefix", "NPM_CONFIG_USERCONFIG"])
def test_npm_is_asked_where_a_variable_may_set_it(npm: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "/somewhere")
    assert started(npm) == ("what npm says", [str(npm)])


def test_npm_is_asked_where_node_is_not_found_or_a_file_cannot_be_read(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / ".npmrc").mkdir()
    assert started(npm) == ("what npm says", [str(npm)])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert started(npm) == ("what npm says", [str(npm)])


def test_another_jupyter_lsp_is_left_alone() -> None:
    for manager in ({}, {"language_server_manager": SimpleNamespace()}):
        server = SimpleNamespace(**manager)
        language_servers._load_jupyter_server_extension(server)
        assert vars(server) == manager and not vars(manager.get("language_server_manager", SimpleNamespace()))


@pytest.mark.skipif(not shutil.which("npm"), reason="no npm here")
def test_it_is_what_npm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def asks(program: str) -> str:
        return subprocess.run([program, "prefix", "-g"], check=True, capture_output=True, text=True).stdout.strip()

    program = str(shutil.which("npm"))
    assert language_servers.prefix(program, asks) == asks(program)
