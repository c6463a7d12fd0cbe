"""Uploads to a bucket in parts that nobody will complete: what a killed client or server left.

They are no objects: no listing and no backup has them, but the store keeps their parts until somebody ends them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from trackbed_mlflow.bucket import s3_address, s3_call, s3_client
from trackbed_mlflow.errors import NotYet, Stop, required

STALE = timedelta(hours=24)  # since they were begun; the longest upload is over by then


def end_stale(environment: Mapping[str, str], age: timedelta = STALE, client: Any = None) -> int:
    """End those below this project's own prefix that were begun longer ago than ``age``; gives the count.

    A store that does not answer, or does not know them, is left alone: nothing depends on it.
    """
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION")
    if not destination.startswith("s3://"):
        return 0
    bucket, prefix = s3_address(destination)
    return end_below(client or s3_client(environment), bucket, f"{prefix}/" if prefix else "", age)


def end_below(client: Any, bucket: str, prefix: str, age: timedelta = timedelta(0)) -> int:
    """The same of any part of a bucket; ``prefix`` with its slash."""
    before, count = datetime.now(UTC) - age, 0
    try:
        for upload in _uploads(client, bucket, prefix):
            if not age or upload["Initiated"] <= before:
                s3_call(
                    lambda one=upload: client.abort_multipart_upload(  # type: ignore[misc]
                        Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"]
                    )
                )
                count += 1
    except (NotYet, Stop):
        return count
    return count


def _uploads(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        page = (
            s3_call(
                lambda more=marker: client.list_multipart_uploads(  # type: ignore[misc]
                    Bucket=bucket, Prefix=prefix, **more
                )
            )
            or {}
        )
        # asked for a prefix, some stores give all: those of others are not ours to end
        yield from (upload for upload in page.get("Uploads", ()) if upload["Key"].startswith(prefix))
        following = {"KeyMarker": page.get("NextKeyMarker", ""), "UploadIdMarker": page.get("NextUploadIdMarker", "")}
        if not page.get("IsTruncated") or following == marker:
            return
        marker = following
