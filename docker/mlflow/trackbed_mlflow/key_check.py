"""Which keys open the object store and the database: those given on stdin are tried, none is kept or printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trackbed_mlflow.errors import Stop


def store(environment: Mapping[str, str], access_key: str, secret_key: str) -> bool:
    """Whether a list of the bucket is answered. Raises Stop where the store answers neither yes nor no."""
    from botocore import exceptions

    from trackbed_mlflow.bucket import s3_client

    destination = environment.get("MLFLOW_ARTIFACTS_DESTINATION", "")
    bucket = destination.removeprefix("s3://").partition("/")[0]
    client = s3_client(environment, keys={"aws_access_key_id": access_key, "aws_secret_access_key": secret_key})
    try:
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except exceptions.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            return True
        if 400 <= status < 500:  # each store has words of its own for a key that it does not know
            return False
        raise Stop(1, f"the object store answers {code or status}") from None
    except exceptions.BotoCoreError as error:
        raise Stop(1, f"the object store does not answer: {error}") from None
    return True


def database(environment: Mapping[str, str], user: str, password: str) -> bool:
    """Whether the database lets that role in. Raises Stop where it does not answer."""
    import psycopg2  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import sqlalchemy

    from trackbed_mlflow.schema import refused

    url = sqlalchemy.make_url(environment.get("MLFLOW_BACKEND_STORE_URI", ""))
    try:
        psycopg2.connect(
            host=url.host, port=url.port or 5432, user=user, password=password, dbname=url.database, connect_timeout=10
        ).close()
    except psycopg2.OperationalError as error:
        if refused(str(error)):
            return False
        raise Stop(1, f"the database does not answer: {' '.join(str(error).split())}") from None
    return True


def tried(environment: Mapping[str, str], asked: Mapping[str, list[list[str]]]) -> dict[str, list[bool | str]]:
    """For each pair of words whether it opens, or why that is not known."""
    ways = {"store": store, "database": database}
    result: dict[str, list[bool | str]] = {}
    for name, pairs in asked.items():
        result[name] = []
        for one, other in pairs:
            try:
                result[name].append(ways[name](environment, one, other))
            except Stop as stop:
                result[name].append(str(stop))
    return result


def print_tried(environment: Mapping[str, str], stdin: str) -> None:
    asked: Any = json.loads(stdin or "{}")
    print(json.dumps(tried(environment, asked)))
