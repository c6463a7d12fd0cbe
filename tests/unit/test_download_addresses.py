"""Signed addresses of many artifacts at once (trackbed_mlflow/download_addresses.py)."""

from __future__ import annotations

from typing import Any

import pytest
from trackbed_mlflow import artifact_pool, download_addresses
from trackbed_mlflow.edge import routes


class Repository:
    """MLflow's as far as it matters."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def _get_s3_client(self) -> Any:
        return self.client

    def get_download_presigned_url(self, path: str) -> tuple[str, Any]:
        head = self._get_s3_client().head_object(Bucket="b", Key=path)
        return self._get_s3_client().generate_presigned_url("get_object", Params={"Key": path}), head.get(
            "ContentLength"
        )


class Client:
    def __init__(self) -> None:
        self.looked = 0

    def head_object(self, **_: Any) -> dict[str, int]:
        self.looked += 1
        return {"ContentLength": 7}

    def generate_presigned_url(self, method: str, Params: dict[str, str]) -> str:
        return f"{method} {Params['Key']}"


def test_nothing_is_asked_of_the_store() -> None:
    client = Client()
    repository = Repository(client)
    assert download_addresses.signing(repository).get_download_presigned_url("a") == ("get_object a", None)
    assert client.looked == 0
    assert repository.get_download_presigned_url("a")[1] == 7 and client.looked == 1  # MLflow's own is as it was


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"paths": "a"},
        {"paths": []},
        {"paths": [1]},
        {"paths": [""]},
        {"paths": ["a", None]},
        {"paths": ["a"] * (download_addresses.MOST + 1)},
    ],
)
def test_a_request_that_is_none(data: Any) -> None:
    assert download_addresses.wanted(data) is None


def test_a_request() -> None:
    paths = [f"1/run/artifacts/{number}" for number in range(download_addresses.MOST)]
    assert download_addresses.wanted({"paths": paths}) == paths


@pytest.mark.parametrize("jobs", [True, False])
def test_the_server_offers_them_among_what_waits_for_the_store(jobs: bool) -> None:
    judge = routes.Judge(routes.table(jobs))
    assert judge.refusal(download_addresses.PATH, "POST") is None
    refused = judge.refusal(download_addresses.PATH, "GET")
    assert refused and refused[0] == 405
    assert artifact_pool.waits_for_store(download_addresses.PATH)
