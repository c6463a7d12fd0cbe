"""The place of the artifacts (trackbed_mlflow/bucket.py): how it is named, made and looked into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trackbed_mlflow import bucket, errors

from tests.unit.fakes import trackbed_mlflow


@pytest.mark.parametrize(
    ("code", "status", "verdict"),
    [
        ("NoSuchBucket", 404, "missing"),
        ("404", 404, "missing"),
        ("AccessDenied", 403, "refused"),
        ("InvalidAccessKeyId", 404, "refused"),
        ("SignatureDoesNotMatch", 403, "refused"),
        ("SlowDown", 503, "later"),
        ("XMinioServerNotInitialized", 503, "later"),
        ("InternalError", 500, "later"),
        ("NotImplemented", 501, "failed"),
        ("XMinioStorageFull", 507, "failed"),
        ("507", 507, "failed"),
        ("InvalidBucketName", 400, "failed"),
        ("PermanentRedirect", 301, "failed"),
    ],
)
def test_what_an_answer_of_the_store_means(code: str, status: int, verdict: str) -> None:
    assert bucket.s3_verdict(code, status) == verdict


@pytest.mark.parametrize(
    ("destination", "parts"),
    [
        ("s3://mlflow-artifacts", ("mlflow-artifacts", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a/b/", ("bucket", "a/b")),
    ],
)
def test_bucket_and_prefix(destination: str, parts: tuple[str, str]) -> None:
    assert bucket.s3_address(destination) == parts


def test_a_destination_without_a_bucket_is_refused() -> None:
    with pytest.raises(errors.Stop, match="names no bucket"):
        bucket.s3_address("s3:///prefix")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("mlflow-artifacts:/1/run/artifacts", "1/run/artifacts"),
        ("1/run/", "1/run"),
        ("/", ""),
        ("a..b/c", "a..b/c"),
    ],
)
def test_artifact_paths(text: str, path: str) -> None:
    assert bucket.artifact_path(text) == path


@pytest.mark.parametrize("text", ["..", "../x", "1/../../x", "mlflow-artifacts:/../x"])
def test_no_way_out_of_the_artifacts(text: str) -> None:
    with pytest.raises(errors.Stop):
        bucket.artifact_path(text)


def test_objects_of_a_folder(tmp_path: Path) -> None:
    place = tmp_path / "with space"
    (place / "1" / "run" / "artifacts").mkdir(parents=True)
    (place / "1" / "run" / "artifacts" / "model.bin").write_bytes(b"12345")
    (place / "1" / "runaway").write_bytes(b"1")
    done = trackbed_mlflow("object", "mlflow-artifacts:/1/run", MLFLOW_ARTIFACTS_DESTINATION=place.as_uri())
    assert json.loads(done.stdout) == [{"path": "1/run/artifacts/model.bin", "size": 5}]
    assert json.loads(trackbed_mlflow("object", "1/none", MLFLOW_ARTIFACTS_DESTINATION=str(place)).stdout) == []


def test_an_artifact_folder_is_made_once(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    done = trackbed_mlflow("bucket", MLFLOW_ARTIFACTS_DESTINATION=place.as_uri(), TRACKBED_S3_CREATE="check")
    assert done.returncode == errors.MISCONFIGURED
    assert not place.exists()
    for _ in range(2):
        assert trackbed_mlflow("bucket", MLFLOW_ARTIFACTS_DESTINATION=place.as_uri()).returncode == 0
    assert place.is_dir()
