"""Run inside MLflow's service: lists of artifacts by the service beside the store against those by the store itself."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import uuid
from pathlib import Path

sys.path.insert(0, "/opt/trackbed")  # the image's
PAGE = 5  # names in one page of the store's own list
NAMES = [
    "plain.bin",
    "empty",
    "folder/inside.bin",
    "folder/below/deep.bin",
    "folder.txt",  # sorts before folder/
    "folder-2/x",
    "folder0",
    "a b+c&d%20.txt",
    "größe/ä",
    "gro\u0308ße/x",  # the same letters, written otherwise
    "名前/ファイル.bin",
    "🙂/🙂.bin",
    "\U0010fffd",
    "<tag> & 'quotes\".txt",
    "#hash?query",
    "new\nline\ttab\rreturn",
    ".hidden/.file",
    "UPPER",
    "upper",
    "x" * 200,
    "meta",
    "sgwtmp",
    *(f"many/{number:05}" for number in range(2 * PAGE + 1)),
    *(f"exactly/{number}" for number in range(PAGE)),
    *(f"folders/{number}/x" for number in range(3)),
]
FOLDERS = ["", "folder", "folder/", "folder/below", "größe", "gro\u0308ße", "名前", "🙂", ".hidden", "many", "exactly"]
FOLDERS += ["folders", "folders/1", "missing", "folder/missing", "plain.bin", "emptied", "nothing/at/all", "fol"]


def main() -> None:
    from mlflow.store.artifact.s3_artifact_repo import (  # type: ignore[import-not-found,unused-ignore]
        S3ArtifactRepository,
    )
    from trackbed_mlflow import artifact_lists, configuration, durability  # type: ignore[import-not-found,unused-ignore]
    from trackbed_mlflow.bucket import s3_address, s3_client  # type: ignore[import-not-found,unused-ignore]

    configuration.prepare(os.environ)
    root = f"{os.environ['MLFLOW_ARTIFACTS_DESTINATION'].rstrip('/')}/list-{uuid.uuid4().hex}"
    bucket, prefix = s3_address(root)
    client = s3_client(os.environ)
    plain = S3ArtifactRepository.list_artifacts
    pages = client.get_paginator("list_objects_v2")
    S3ArtifactRepository._iterate_s3_paginated_results = lambda _, bucket, prefix: pages.paginate(
        Bucket=bucket, Prefix=prefix, Delimiter="/", PaginationConfig={"PageSize": PAGE}
    )
    address = os.environ["TRACKBED_STORE_SYNC"]
    artifact_lists.install(S3ArtifactRepository, address, durability.read_token(os.environ))
    said: list[str] = []
    vars(artifact_lists)["say"] = said.append
    repository = S3ArtifactRepository(root)
    unequal = []

    def compare(path: str) -> int:
        quick, own = repository.list_artifacts(path), plain(repository, path)
        pairs = [[(info.path, info.is_dir, info.file_size) for info in each] for each in (quick, own)]
        if pairs[0] != pairs[1]:
            unequal.append([path, *pairs])
        return len(quick)

    try:
        for name in (*NAMES, "emptied/x"):
            client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"" if name == "empty" else name.encode())
        client.delete_object(Bucket=bucket, Key=f"{prefix}/emptied/x")
        counts = {path: compare(path) for path in FOLDERS}
        # what arrives by another way is seen at once, and what goes away no longer
        client.put_object(Bucket=bucket, Key=f"{prefix}/folder/late.bin", Body=b"late")
        counts["late"] = compare("folder")
        client.delete_object(Bucket=bucket, Key=f"{prefix}/folder/late.bin")
        counts["gone"] = compare("folder")
        with tempfile.TemporaryDirectory() as folder:
            found = repository.download_artifacts("folder", folder)
            fetched = sorted(str(path.relative_to(found)) for path in Path(found).rglob("*") if path.is_file())
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=item["Key"])
    json.dump({"unequal": unequal, "counts": counts, "said": said, "fetched": fetched}, sys.stdout)


main()
