"""The box at the end of `up`: what is in it, and what is kept out of a log that others read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from helpers import notebook, status
from helpers.engines.base import MLFLOW, Port, ServiceStatus, State
from helpers.errors import TrackbedError
from tests.unit.fakes import project

LINK, TOKEN = "http://127.0.0.1:8888/lab?token=", "mlflows-own-token"
START = "http://127.0.0.1:8000/start?token="


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    created = project(tmp_path)
    for name in ("SSH_CONNECTION", "SSH_TTY", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(status, "workspace", lambda project: "/srv/work")
    monkeypatch.setattr(notebook, "url", lambda engine, token: LINK + token)
    mlflow = ServiceStatus(MLFLOW, State.READY, ports=(Port("http", 8000, 8000),))
    view = status.Overview(
        "embedded",
        created.settings,
        (status.Row(mlflow, "MLflow", ("http://127.0.0.1:8000",)),),
        token=TOKEN,
        source=cast(Any, None),
    )
    return lambda **changes: dict(status.rows(created, replace(view, **changes)))


def test_links_files_and_what_to_type(rows: Any) -> None:
    result = rows()
    assert list(result) == ["Open", "Your files", "Next", "To stop"]
    assert result["Open"].startswith(START) and len(result["Open"]) > len(START) + 20
    assert TOKEN not in result["Open"]  # the notebook's opens both
    assert result["Your files"] == "/srv/work"
    assert result["Next"].endswith(" check") and result["To stop"].endswith(" down")


def test_no_token_goes_into_the_journal(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    assert not any("token" in text for text in rows().values())


def test_somebody_at_another_computer_gets_the_tunnel(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.9 50000 192.0.2.7 22")
    assert rows()["On your computer"].startswith("ssh -N -L 8000:127.0.0.1:8000 ")


def test_behind_the_gateway_the_page_is_everybodys_and_the_notebooks_link_is_not(rows: Any) -> None:
    result = rows(is_public=True)
    assert result["Open"] == "http://127.0.0.1:8000/start" and result["Notebook"].startswith(LINK)


def test_a_notebook_alone_is_what_is_opened(rows: Any) -> None:
    assert rows(rows=())["Open"].startswith(LINK)


def test_a_notebook_alone_that_is_not_up_has_no_link(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> str:
        raise TrackbedError("JupyterLab is not running")

    monkeypatch.setattr(notebook, "url", down)
    assert "Open" not in rows(rows=())
