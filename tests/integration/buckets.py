"""A real S3 store of a test's own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from helpers import references
from helpers.backups.bucket import Access
from tests.claims import free_ports
from tests.conftest import require_docker
from tests.integration import inspection


@contextmanager
def store(bucket: str, address: str = "127.0.0.1") -> Iterator[Access]:
    """A real S3 store at an address of this machine with that empty bucket, which belongs to no project; skips the test without Docker."""
    require_docker()
    import boto3
    from botocore.exceptions import HTTPClientError

    key, secret, (port,) = "backup" + secrets.token_hex(4), secrets.token_hex(16), free_ports(1)
    name = f"tb-vault-{secrets.token_hex(4)}"
    inspection.output(
        "docker",
        "run",
        "-d",
        "--rm",
        "--name",
        name,
        "-p",
        f"{address}:{port}:9000",
        "-v",
        "/data",
        "-e",
        f"ROOT_ACCESS_KEY={key}",
        "-e",
        f"ROOT_SECRET_KEY={secret}",
        references.image("versitygw").name,
        "--port",
        ":9000",
        "posix",
        "/data",
    )
    try:
        access = Access(f"http://{address}:{port}", "us-east-1", key, secret)
        client = boto3.client(
            "s3",
            endpoint_url=access.endpoint,
            region_name=access.region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )
        # the engine accepts connections before the store does
        inspection.answering(lambda: client.create_bucket(Bucket=bucket), HTTPClientError)
        yield access
    finally:
        inspection.output("docker", "rm", "-f", name)


def upload(access: Access, bucket: str, folder: Path, prefix: str) -> None:
    """All files of a folder below a prefix."""
    import boto3

    client: Any = boto3.client(
        "s3",
        endpoint_url=access.endpoint,
        region_name=access.region,
        aws_access_key_id=access.key,
        aws_secret_access_key=access.secret,
    )
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
