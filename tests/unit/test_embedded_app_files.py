"""The files that the services run from: what an earlier version left stays as long as its server may run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from helpers import clone
from helpers.engines.embedded.app_files import AppFiles
from helpers.engines.embedded.startup import Startup
from tests.unit.fakes import Silent, project

PACKAGE = "trackbed_mlflow"


@pytest.fixture
def files(tmp_path: Path) -> AppFiles:
    created = project(tmp_path)
    created.credentials()
    folder = created.settings.folder / "embedded"
    app = folder / "app"
    app.mkdir(parents=True)
    deployment: Any = SimpleNamespace(
        project=created,
        app=app,
        startup=app / "startup",
        certificates="",
        start_page=b"",
        secret_files=lambda: (),
        layout=None,
    )
    return AppFiles(deployment)


def test_modules_of_the_previous_version_go_last(files: AppFiles) -> None:
    package = files.deployment.app / PACKAGE
    package.mkdir()
    gone = package / "gone.py"
    gone.write_text("")
    files.put()
    assert gone.exists() and (package / "__init__.py").exists()
    put = sorted(package.rglob("*.py"))
    files.remove_others()
    assert sorted(package.rglob("*.py")) == [path for path in put if path != gone]


def test_entry_points_of_the_previous_version_go_with_its_modules(files: AppFiles) -> None:
    """MLflow would load what they name, and warn in every kernel that it is not there."""
    stale = files.deployment.startup / "trackbed_links-1.0.dist-info" / "entry_points.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("[mlflow.request_header_provider]\ntrackbed = trackbed_links:Links\n")
    files.put()
    assert stale.exists()
    files.remove_others()
    assert not stale.parent.exists()
    assert set(clone.notebook_files()) == {
        path.relative_to(files.deployment.startup).as_posix()
        for path in files.deployment.startup.rglob("*")
        if path.is_file()
    }


def test_a_package_of_the_previous_version_does_not_hide_a_module(files: AppFiles) -> None:
    package = files.deployment.app / PACKAGE
    (package / "errors").mkdir(parents=True)
    (package / "errors" / "__init__.py").write_text("")
    files.put()
    assert (package / "errors.py").exists() and not (package / "errors" / "__init__.py").exists()


def test_a_start_removes_them_once_the_new_server_has_replaced_the_old_one() -> None:
    startup = MagicMock()
    Startup.start(startup, Silent())
    called = [name for name, _, _ in startup.mock_calls]
    assert called.index("files.put") < called.index("_run_programs") < called.index("files.remove_others")
