"""The place of the artifacts, a folder or a bucket: asked, made where it is missing, looked into."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from trackbed_mlflow.errors import FAILED, MISCONFIGURED, REFUSED, USAGE, NotYet, Stop, required, wait

CONNECTED = 5.0  # seconds: a store may be unreachable

T = TypeVar("T")


def s3_address(destination: str) -> tuple[str, str]:
    """Bucket and prefix (without slashes around it) of s3://bucket/prefix."""
    bucket, _, prefix = destination.removeprefix("s3://").partition("/")
    if not bucket:
        raise Stop(MISCONFIGURED, f"MLFLOW_ARTIFACTS_DESTINATION={destination} names no bucket")
    return bucket, prefix.strip("/")


def artifact_path(text: str) -> str:
    """An artifact path as MLflow names it, without scheme, slashes around it and ways out of the tree."""
    path = text.removeprefix("mlflow-artifacts:").strip("/")
    if ".." in path.split("/"):
        raise Stop(USAGE, f"{text} is not an artifact path")
    return path


def folder_of(destination: str) -> Path:
    return Path(unquote(urlsplit(destination).path) if destination.startswith("file:") else destination)


def s3_client(
    environment: Mapping[str, str],
    connections: int = 10,
    keys: Mapping[str, str] | None = None,
    seconds: float = 20,
    streamed: bool = False,
    taken: float = CONNECTED,
) -> Any:
    """``keys``: others than those of the environment's file. ``seconds``: how long an answer is awaited, once all is
    sent. ``streamed``: for bodies that can be read only once; whoever sends one compares the checksum that the store
    answers. ``taken``: in how many seconds the store takes what is sent at once: bytes whole, of a stream 16 KiB."""
    import boto3
    from botocore.config import Config

    style: dict[str, Any] = {"addressing_style": environment.get("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "auto")}
    more: dict[str, Any] = {}
    if streamed:  # neither the signature nor a checksum of boto3's own may read it before it is sent
        style["payload_signing_enabled"], more["request_checksum_calculation"] = False, "when_required"
    return boto3.client(
        "s3",
        endpoint_url=environment.get("MLFLOW_S3_ENDPOINT_URL") or None,
        verify=False if environment.get("MLFLOW_S3_IGNORE_TLS", "").lower() in ("1", "true") else None,
        config=Config(
            connect_timeout=taken,  # urllib3 has one time for both
            read_timeout=seconds,
            retries={"total_max_attempts": 1},
            max_pool_connections=connections,
            s3=style,
            **more,
        ),
        **(keys or {}),
    )


def s3_verdict(code: str, status: int) -> str:
    """What an S3 error means here: missing, refused, later or failed."""
    if code in ("NoSuchBucket", "404"):
        return "missing"
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch") or status in (401, 403):  # VersityGW: 404 for the first
        return "refused"
    if status in (501, 507):  # it does not know this request; its disk is full
        return "failed"
    return "later" if status >= 500 or code in ("SlowDown", "RequestTimeout") else "failed"


def s3_call(call: Callable[[], T]) -> T | None:
    """The result, None when the bucket is missing; NotYet or Stop for the rest."""
    from botocore import exceptions

    try:
        return call()
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        verdict = s3_verdict(code, status)
        if verdict == "missing":
            return None
        if verdict == "later":
            raise NotYet(f"{code or status}") from None
        exit_code = REFUSED if verdict == "refused" else FAILED
        raise Stop(exit_code, f"the object store refuses: {error}", code) from None
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise Stop(MISCONFIGURED, f"no keys for the object store: {error}") from None
    except exceptions.SSLError as error:
        raise Stop(MISCONFIGURED, f"the object store's certificate is not accepted: {error}") from None
    except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
        raise NotYet(" ".join(str(error).split())) from None


def make_bucket(client: Any, bucket: str, region: str) -> None:
    place: dict[str, Any] = {}
    if region not in ("", "us-east-1"):  # us-east-1 is the one region that must not be named
        place["CreateBucketConfiguration"] = {"LocationConstraint": region}
    try:
        s3_call(lambda: client.create_bucket(Bucket=bucket, **place))
    except Stop as stop:
        if stop.reason == "BucketAlreadyExists":
            raise Stop(REFUSED, f"the bucket name {bucket} belongs to someone else: choose another") from None
        if stop.reason != "BucketAlreadyOwnedByYou":
            raise


def holds(client: Any, bucket: str) -> bool:
    """Whether the store has that bucket. Raises NotYet while it does not answer."""
    return s3_call(lambda: client.list_objects_v2(Bucket=bucket, MaxKeys=1)) is not None


def is_there(environment: Mapping[str, str]) -> bool:
    """Whether the place of the artifacts is there. Raises NotYet while its store does not answer."""
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION")
    if not destination.startswith("s3://"):
        return folder_of(destination).is_dir()
    with closing(s3_client(environment)) as client:  # a server that asked is forked: no socket of it stays in workers
        return holds(client, s3_address(destination)[0])


def ensure_bucket(environment: Mapping[str, str]) -> str:
    """Make or check the place of the artifacts; says what it did."""
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION")
    may_create = environment.get("TRACKBED_S3_CREATE", "auto") != "check"
    if not destination.startswith("s3://"):
        folder = folder_of(destination)
        if may_create:
            folder.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise Stop(MISCONFIGURED, f"the artifact folder {folder} is missing or not writable")
        return f"artifact folder {folder} is there"
    bucket, _ = s3_address(destination)
    client = s3_client(environment)

    def look() -> bool:
        return holds(client, bucket)

    endpoint = environment.get("MLFLOW_S3_ENDPOINT_URL") or "AWS"
    what = f"the object store at {endpoint}"
    if wait(what, look):
        return f"bucket {bucket} is there"
    if not may_create:
        raise Stop(MISCONFIGURED, f"the bucket {bucket} does not exist in {what}; create it there")
    wait(what, lambda: make_bucket(client, bucket, environment.get("AWS_DEFAULT_REGION", "")))
    if not wait(what, look):
        raise Stop(FAILED, f"the bucket {bucket} was created and is still not there")
    return f"bucket {bucket} created"


def files_below(folder: Path, path: str) -> list[dict[str, str | int]]:
    top = folder / path
    files = [top] if top.is_file() else sorted(file for file in top.rglob("*") if file.is_file())
    return [{"path": file.relative_to(folder).as_posix(), "size": file.stat().st_size} for file in files]


def objects_below(environment: Mapping[str, str], path: str) -> list[dict[str, str | int]]:
    """The stored objects at or below an artifact path, named relative to the artifact root."""
    path = artifact_path(path)
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION")
    if not destination.startswith("s3://"):
        return files_below(folder_of(destination), path)
    bucket, prefix = s3_address(destination)
    root = f"{prefix}/" if prefix else ""
    client = s3_client(environment)

    def ask() -> list[dict[str, str | int]]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=root + path)
        return [
            {"path": item["Key"].removeprefix(root), "size": item["Size"]}
            for page in pages
            for item in page.get("Contents", ())
        ]

    result = wait("the object store", lambda: s3_call(ask), seconds=10)
    if result is None:
        raise Stop(FAILED, f"the bucket {bucket} does not exist")
    inside = f"{path}/" if path else ""
    return [item for item in result if item["path"] == path or str(item["path"]).startswith(inside)]
