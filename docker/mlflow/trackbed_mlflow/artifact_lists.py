"""Lists of artifacts in VersityGW come from the service beside its volume (`store_sync.py`), one folder in one go.

VersityGW 1.8.0 reads and sorts the whole folder again for each 1,000 names that it lists, and reads several files of
metadata for each. The service reads the folder once, at the moment of the request: nothing is kept that could be out of
date. Where the service is not there, or cannot say, VersityGW lists as before.
"""

from __future__ import annotations

import functools
import json
import posixpath
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from trackbed_mlflow.errors import say

AT_ONCE = 4  # lists of one worker that the service works for; the others wait for their turn
TURN_SECONDS = 20.0  # for a turn, here and in the service
LIST_SECONDS = 25.0  # for a whole list; with the turn less than what a request may be silent
SILENT_SECONDS = 10.0
_INVALID = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8

Entries = Iterator[tuple[str, int | None]]


class Busy(Exception):
    """There is no list now; asking again later helps."""


class NoList(Exception):
    """The service cannot list this; the store can be asked."""


def folder_key(root: str, path: str | None) -> str | None:
    """The key of a folder of artifacts, None where names are in it that the store itself has to judge."""
    key = posixpath.join(root, path or "").rstrip("/")
    return None if not root or not {"", ".", ".."}.isdisjoint(key.split("/")) or "\0" in key else key


def entries(address: str, token: str, bucket: str, key: str) -> Entries:
    """Name and size of what is in a folder, the size None for a folder. Raises Busy, NoList."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + LIST_SECONDS
    request = json.dumps({"token": token, "bucket": bucket, "list": key}).encode() + b"\n"
    count = 0
    try:
        connection = socket.create_connection((host, int(port)), timeout=5)
    except OSError as error:
        raise NoList(f"its service does not answer: {error}") from None
    try:
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(TURN_SECONDS + SILENT_SECONDS)
            connection.sendall(request)
            for line in stream:
                answer = json.loads(line)
                if isinstance(answer, dict):
                    break
                for name, size in answer:
                    yield _INVALID.sub("\ufffd", name), size  # as the store lists them
                count += len(answer)
                if time.monotonic() > end:
                    raise Busy("the list takes too long")
            else:
                raise Busy("the list broke off")
    except TimeoutError:
        raise Busy("its disk does not answer") from None
    except (OSError, ValueError) as error:
        raise Busy(f"the list broke off: {error}") from None
    if answer.get("busy"):
        raise Busy("too many lists are asked for")
    if answer.get("error"):
        raise NoList(answer["error"])
    if answer.get("count") != count:
        raise Busy("the list broke off")


def install(repository: Any, address: str, token: str) -> None:
    """``repository``: MLflow's S3 repository, a class."""
    from mlflow.entities import FileInfo  # type: ignore[import-not-found]
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE  # type: ignore[import-not-found]

    plain: Callable[..., Any] = repository.list_artifacts
    turns, said = threading.BoundedSemaphore(AT_ONCE), set[str]()

    def listed(bucket: str, key: str, path: str) -> list[Any]:
        if not turns.acquire(timeout=TURN_SECONDS):
            raise Busy("too many lists are asked for")
        try:
            above = f"{path}/" if path else ""
            infos = [FileInfo(above + name, size is None, size) for name, size in entries(address, token, bucket, key)]
        finally:
            turns.release()
        return sorted(infos, key=lambda info: info.path)

    @functools.wraps(plain)
    def list_artifacts(self: Any, path: str | None = None) -> Any:
        bucket, root = self.parse_s3_compliant_uri(self.artifact_uri)
        if (key := folder_key(root, path)) is None:
            return plain(self, path)
        try:
            return listed(bucket, key, (path or "").rstrip("/"))
        except NoList as error:
            if str(error) not in said and len(said) < 20:
                said.add(str(error))
                say(f"the object store lists artifacts itself, which is slower: {error}")
            return plain(self, path)
        except Busy as error:
            raise MlflowException(
                f"the object store cannot list the artifacts now ({error}); try again",
                error_code=TEMPORARILY_UNAVAILABLE,
            ) from None

    repository.list_artifacts = list_artifacts
