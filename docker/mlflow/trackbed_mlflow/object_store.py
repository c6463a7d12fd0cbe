"""Folder and bucket as one thing: a store of named objects that are listed, read, written and dropped."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from trackbed_mlflow.bounded_pool import THREADS, BoundedPool
from trackbed_mlflow.bucket import folder_of, s3_address, s3_client
from trackbed_mlflow.errors import USAGE, Stop, required
from trackbed_mlflow.folder_objects import FolderObjects
from trackbed_mlflow.s3_objects import S3Objects
from trackbed_mlflow.small_puts import SmallPuts

COPIED = 1200.0  # seconds in which a store has to make an object of its parts; VersityGW copies each byte meanwhile
# Seconds in which a store takes 8 MiB by each of THREADS: 9 Mbit/s; and 16 KiB, where its disk may be busy for a while.
TAKEN, TAKEN_STREAMED = 60.0, 120.0
AHEAD, TINY = 16, 2 * 2**20  # objects fetched before they are asked for, and up to which size in bytes

ObjectStore = FolderObjects | S3Objects


def at_prefix(environment: Mapping[str, str], prefix: str) -> str:
    """The artifacts' destination with its last segment, the prefix that is active, replaced ("" keeps it)."""
    destination = required(environment, "MLFLOW_ARTIFACTS_DESTINATION").rstrip("/")
    if not prefix:
        return destination
    if "/" in prefix or prefix in (".", ".."):
        raise Stop(USAGE, f"{prefix} is not a prefix")
    return f"{destination.rpartition('/')[0]}/{prefix}"


def at_folder(environment: Mapping[str, str], prefix: str, top: str) -> str:
    """The same, or one folder of it."""
    destination = at_prefix(environment, prefix)
    if not top:
        return destination
    if "/" in top or top in (".", ".."):
        raise Stop(USAGE, f"{top} is not a folder's name")
    return f"{destination}/{top}"


def storage(environment: Mapping[str, str], prefix: str, top: str = "") -> ObjectStore:
    """The objects below a prefix ("" the active one), or below one folder of it."""
    destination = at_folder(environment, prefix, top)
    if not destination.startswith("s3://"):
        return FolderObjects(folder_of(destination))
    files = bool(environment.get("TRACKBED_STORE_SYNC"))
    client = s3_client(environment, THREADS + AHEAD, taken=TAKEN)
    bucket, root = s3_address(destination)
    return S3Objects(
        client,
        bucket,
        root,
        files=files,
        patient=lambda: s3_client(environment, seconds=COPIED),
        # only where the store is on this machine: what breaks on the way is not sent again
        streamed=(lambda: s3_client(environment, seconds=COPIED, streamed=True, taken=TAKEN_STREAMED))
        if files
        else None,
        quick=(lambda: SmallPuts.of(client, bucket, THREADS)) if files else lambda: None,
    )


def fetched(store: ObjectStore, names: Iterator[str]) -> Iterator[tuple[str, int, BinaryIO | None]]:
    """Name, size and content of each object, in order; None for one that is not there any more.

    From a store over the network up to AHEAD objects are asked for before their turn, those of up to TINY bytes read.
    """
    if not store.remote:
        yield from (_fetch(store, name) for name in names)
        return
    pool = BoundedPool(AHEAD)
    try:
        for name in itertools.islice(names, AHEAD):
            pool.do(functools.partial(_fetch, store, name))
        while pool.open:
            result = pool.next()
            for name in itertools.islice(names, 1):
                pool.do(functools.partial(_fetch, store, name))
            yield result
    finally:
        pool.threads.shutdown(wait=False, cancel_futures=True)


def _fetch(store: ObjectStore, name: str) -> tuple[str, int, BinaryIO | None]:
    try:
        size, stream = store.open(name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return name, 0, None
    if not store.remote or size > TINY:
        return name, size, stream
    content = stream.read()
    stream.close()
    return name, size, io.BytesIO(content)
