"""What is told while images are fetched: which of how many, how much of it, how long it took."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helpers.engines.docker import images
from helpers.engines.docker.client import DockerApi
from helpers.engines.notebook_image import NotebookImage
from tests.unit.fakes import Silent

EVENTS: list[dict[str, Any]] = [
    {"status": "Pulling from library/postgres", "id": "18.6"},
    {"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 100}, "progress": "[=> ]"},
    {"status": "Downloading", "id": "b", "progressDetail": {"current": 5, "total": 50}},
    {"status": "Downloading", "id": "a", "progressDetail": {"current": 90, "total": 100}},
    {"status": "Download complete", "id": "a", "progressDetail": {}},
    {"status": "Extracting", "id": "a", "progressDetail": {"current": 1, "total": 100}},
    {"status": "Already exists", "id": "c"},
]


def test_bytes_of_all_layers_are_counted() -> None:
    api = DockerApi.__new__(DockerApi)
    pull = SimpleNamespace(pull=lambda repository, tag, stream, decode: iter(EVENTS))
    api._client = SimpleNamespace(api=pull)
    notes: list[tuple[int, int]] = []
    assert len(list(api.pull("postgres:18.6", lambda done, whole: notes.append((done, whole))))) == len(EVENTS)
    assert notes == [(10, 100), (15, 150), (95, 150), (105, 150), (105, 150), (105, 150)]


def test_every_image_says_which_of_how_many_its_size_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("trackbed/mlflow:1", "postgres:18.6", "versitygw:1")
    monkeypatch.setattr(images, "stale", lambda *_: names)
    monkeypatch.setattr(images, "_build", lambda *_: None)
    monkeypatch.setattr(images, "_pull_or_build", lambda *_: None)
    monkeypatch.setattr(images, "local", lambda api, name: name)
    api, progress = SimpleNamespace(image=lambda name: {"size": 300 << 20}), Silent()
    created = images.ensure(
        cast(DockerApi, cast(Any, api)), cast(Any, SimpleNamespace(settings=None)), NotebookImage("x:1"), progress
    )
    assert created == ("postgres:18.6", "versitygw:1", "trackbed/mlflow:1"), "pulls come first"
    assert progress.steps[0] == "1 of 3: pulling postgres:18.6"
    assert re.fullmatch(r"1 of 3: postgres:18\.6 is here, 300 MiB in \d+ s", progress.steps[1])
    assert progress.steps[4] == "3 of 3: building trackbed/mlflow:1"


BROKEN = (
    "#9 4.1 WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError('<x>: Failed to "
    "establish a new connection: [Errno {}')': /whl/cpu/torch/"
)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([BROKEN.format("-2] Name or service not known")], "it does not answer (Name or service not known)"),
        ([BROKEN.format("111] Connection refused")], "it does not answer (Connection refused)"),
        (
            [
                "5.1 WARNING: Retrying after connection broken by 'SSLError(SSLCertVerificationError(1, '[SSL: "
                "CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in chain (_ssl.c:9)'))'"
            ],
            "it does not answer (certificate verify failed: self-signed certificate in chain)",
        ),
        (
            [
                "WARNING: Retrying after connection broken by 'ReadTimeoutError(\"HTTPSConnectionPool(host='x', port=443): Read "
                "timed out. (read timeout=15)\")'"
            ],
            "it does not answer (Read timed out)",
        ),
        (["after connection broken by 'ProtocolError('gone')'"], "it does not answer"),
        (["#9 1.0 ERROR: No matching distribution found for torch==2.13.0"], ""),
    ],
)
def test_an_index_that_does_not_answer_is_not_one_without_the_package(lines: list[str], reason: str) -> None:
    assert images.unreachable(lines) == reason


@pytest.mark.parametrize("line", ["#9 12.20 ERROR: no", "12.20 ERROR: no", "ERROR: no"])
def test_a_step_and_its_time_are_not_part_of_a_message(line: str) -> None:
    assert images._plain(line) == "ERROR: no"
