"""A run with many artifacts, and who asks the object store how often. Prints one JSON object.

In MLflow's service: `store FOLDER COUNT` stores files of a few bytes, lists them as the server does and signs their
addresses; `remove FOLDER`. In the notebook: `fetch RUN` downloads all of them as a user does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

THREADS = 16


def bucket(folder: str) -> tuple[Any, str, str]:
    """A client of the store, the bucket, and the key of a folder of the server's artifacts."""
    sys.path.insert(0, "/opt/trackbed")  # the image's
    from trackbed_mlflow import configuration  # type: ignore[import-not-found,unused-ignore]
    from trackbed_mlflow.bucket import s3_address, s3_client  # type: ignore[import-not-found,unused-ignore]

    configuration.prepare(os.environ)
    name, key = s3_address(f"{os.environ['MLFLOW_ARTIFACTS_DESTINATION'].rstrip('/')}/{folder}")
    return s3_client(os.environ), name, key


def store(folder: str, count: int) -> dict[str, object]:
    client, name, key = bucket(folder)

    def put(number: int) -> None:
        client.put_object(Bucket=name, Key=f"{key}/{number:06}.txt", Body=str(number).encode())

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, range(count)))
    from mlflow.store.artifact.s3_artifact_repo import (  # type: ignore[import-not-found,unused-ignore]
        S3ArtifactRepository,
    )
    from trackbed_mlflow import artifact_lists, download_addresses, durability

    address = os.environ["TRACKBED_STORE_SYNC"]
    artifact_lists.install(S3ArtifactRepository, address, durability.read_token(os.environ))
    repository = S3ArtifactRepository(f"s3://{name}/{key}")
    own = repository._get_s3_client()
    asked: Counter[str] = Counter()
    own.meta.events.register("before-send.s3", lambda request, **_: asked.update([request.method]))
    repository._get_s3_client = lambda: own
    listed = len(repository.list_artifacts())
    requests = {"list": asked.total()}
    created = download_addresses.signing(repository)
    for number in range(count):
        created.get_download_presigned_url(f"{number:06}.txt")
    requests["sign"] = asked.total() - requests["list"]
    own.head_object(Bucket=name, Key=f"{key}/000000.txt")  # that it counts at all
    return {"listed": listed, "requests": requests, "in all": asked.total()}


def remove(folder: str) -> dict[str, object]:
    client, name, key = bucket(folder)
    gone = 0
    while found := client.list_objects_v2(Bucket=name, Prefix=f"{key}/").get("Contents"):
        gone += len(found)
        client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": item["Key"]} for item in found], "Quiet": True})
    return {"gone": gone}


def fetch(run: str) -> dict[str, object]:
    import mlflow  # type: ignore[import-not-found,unused-ignore]
    from urllib3.connectionpool import HTTPConnectionPool

    server = urlsplit(os.environ["MLFLOW_TRACKING_URI"]).hostname
    asked: Counter[str] = Counter()
    plain = HTTPConnectionPool.urlopen

    def urlopen(self: Any, method: str, url: str, *words: Any, **named: Any) -> Any:
        whole = self.host != server
        asked[
            f"store {urlsplit(url).path}" if whole else f"server {method} {urlsplit(url).path.rsplit('/', 1)[-1]}"
        ] += 1
        return plain(self, method, url, *words, **named)

    HTTPConnectionPool.urlopen = urlopen  # type: ignore[method-assign,unused-ignore]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path="many", dst_path=folder))
        whole = sum(path.read_text() == str(int(path.stem)) for path in found.iterdir())
    of_store = {name: count for name, count in asked.items() if name.startswith("store ")}
    return {
        "whole": whole,
        "objects": len(of_store),
        "store": sum(of_store.values()),
        "server": {name.removeprefix("server "): asked[name] for name in sorted(asked.keys() - of_store.keys())},
    }


what, *words = sys.argv[1:]
print(
    json.dumps(
        {
            "store": lambda: store(words[0], int(words[1])),
            "remove": lambda: remove(words[0]),
            "fetch": lambda: fetch(words[0]),
        }[what]()
    )
)
