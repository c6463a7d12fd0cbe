"""What the notebook's MLflow says of where it is (docker/jupyter/trackbed_notebook/store_network.py)."""

from __future__ import annotations

import pytest
from trackbed_mlflow.edge import presigned_urls

from helpers import clone
from tests.unit.fakes import module_at


def test_it_is_what_the_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKBED_STORE_NETWORK", "00aa11")
    created = module_at(clone.NOTEBOOK_PACKAGE / "store_network.py").StoreNetwork()
    assert created.in_context()
    headers = [(name.lower().encode(), value.encode()) for name, value in created.request_headers().items()]
    assert presigned_urls.reaches(headers, b"00aa11") and not presigned_urls.reaches(headers, b"22bb33")


@pytest.mark.parametrize("value", ["", None])
def test_nothing_is_said_where_artifacts_pass_through_the_server(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("TRACKBED_STORE_NETWORK", raising=False)
    if value is not None:
        monkeypatch.setenv("TRACKBED_STORE_NETWORK", value)
    assert not module_at(clone.NOTEBOOK_PACKAGE / "store_network.py").StoreNetwork().in_context()


def test_mlflow_finds_it() -> None:
    text = (clone.JUPYTER_FOLDER / "trackbed_notebook-1.0.dist-info" / "entry_points.txt").read_text()
    assert (
        "trackbed_network = trackbed_notebook.store_network:StoreNetwork"
        in text.split("[mlflow.request_auth_provider]")[0]
    )
