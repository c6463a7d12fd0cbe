"""Uploads in parts that nobody completes (trackbed_mlflow/multipart_uploads.py)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from trackbed_mlflow import multipart_uploads

HERE = {"MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/live-1"}
OLD, NEW = datetime.now(UTC) - timedelta(hours=30), datetime.now(UTC) - timedelta(hours=2)


class Store:
    """Pages of uploads; ``prefixes``: whether it looks at the prefix that it is asked for."""

    def __init__(self, *result: tuple[str, datetime], prefixes: bool = True) -> None:
        self.found, self.prefixes, self.ended = list(result), prefixes, list[str]()

    def list_multipart_uploads(self, Bucket: str, Prefix: str, KeyMarker: str = "", UploadIdMarker: str = "") -> Any:
        listed = [(key, at) for key, at in self.found if key.startswith(Prefix) or not self.prefixes]
        start = next((n for n, (key, _) in enumerate(listed, 1) if key == KeyMarker), 0)
        page = listed[start : start + 1]
        return {
            "Uploads": [{"Key": key, "UploadId": f"id {key}", "Initiated": at} for key, at in page],
            "IsTruncated": start + 1 < len(listed),
            "NextKeyMarker": page[0][0] if page else "",
            "NextUploadIdMarker": "u",
        }

    def abort_multipart_upload(self, Bucket: str, Key: str, UploadId: str) -> Any:
        assert (Bucket, UploadId) == ("bucket", f"id {Key}")
        self.ended.append(Key)
        return {}


@pytest.mark.parametrize("prefixes", [True, False])
def test_old_ones_below_our_own_prefix_are_ended_and_no_others(prefixes: bool) -> None:
    store = Store(
        ("live-1/a", OLD), ("live-1/b", NEW), ("live-1/c", OLD), ("live-10/x", OLD), ("other/y", OLD), prefixes=prefixes
    )
    assert multipart_uploads.end_stale(HERE, client=store) == 2
    assert store.ended == ["live-1/a", "live-1/c"]


def test_all_of_a_prefix_that_is_dropped() -> None:
    store = Store(("live-1/a", OLD), ("live-1/b", datetime.now(UTC) + timedelta(minutes=5)), ("live-10/x", OLD))
    assert multipart_uploads.end_below(store, "bucket", "live-1/") == 2
    assert store.ended == ["live-1/a", "live-1/b"]


def test_a_folder_has_none() -> None:
    assert multipart_uploads.end_stale({"MLFLOW_ARTIFACTS_DESTINATION": "file:///x"}, client=object()) == 0


@pytest.mark.parametrize(
    "error",
    [
        ReadTimeoutError(endpoint_url="http://store"),
        ClientError({"Error": {"Code": "NotImplemented"}}, "x"),
        ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "x"),
    ],
)
def test_a_store_that_cannot_is_left_alone(error: Exception) -> None:
    class Refusing:
        def list_multipart_uploads(self, **_: Any) -> Any:
            raise error

    assert multipart_uploads.end_stale(HERE, client=Refusing()) == 0
