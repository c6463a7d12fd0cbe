"""Acknowledged means on the disk: what an upload stored is synced before MLflow's server answers.

A folder store is synced here. VersityGW syncs nothing (1.8.0): the service in `store_sync.py`, which runs as the
store's user beside its volume, does it and is asked from here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import posixpath
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trackbed_mlflow import artifact_lists
from trackbed_mlflow.bucket import folder_of
from trackbed_mlflow.errors import FAILED, MISCONFIGURED, STAGED, Stop, say, sync_path
from trackbed_mlflow.write_journal import Journal

TOKEN_FILE = "TRACKBED_STORE_SYNC_TOKEN_FILE"
SYNC_SECONDS = 110.0  # below the 120 s after which MLflow's client gives up


def sync_files(paths: Iterable[str]) -> list[str]:
    """fsync of several files at about the price of one: all are being written before the first is waited for.

    Gives those that were there.
    """
    with contextlib.ExitStack() as stack:
        opened = {}
        for path in paths:
            try:
                # a pipe in a file's place must not hang whoever opens it
                opened[path] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            stack.callback(os.close, opened[path])
        for number in opened.values() if len(opened) > 1 else ():
            _begin_writing(number)
        for number in opened.values():
            os.fsync(number)
        return list(opened)


def _begin_writing(number: int) -> None:
    """Linux: the file system gives blocks to what it holds back, so that one commit of its journal serves all."""
    import ctypes

    begin = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if begin is not None:
        begin(number, ctypes.c_int64(0), ctypes.c_int64(0), 2)  # SYNC_FILE_RANGE_WRITE; fsync tells of errors


class Folders:
    """Syncs entries: a file's folder, and each folder above it whose own entry is not known to be on the disk."""

    LIMIT = 100_000

    def __init__(self) -> None:
        self._known: set[tuple[str, int, int]] = set()

    def sync(self, path: str) -> None:
        """Sync the entry of ``path``, and those of the folders above up to the file system's root."""
        folder = os.path.dirname(os.path.abspath(path))
        sync_path(folder)
        info = os.lstat(folder)
        while (key := (folder, info.st_dev, info.st_ino)) not in self._known:
            above = os.path.dirname(folder)
            try:
                upper = os.lstat(above)
                if above == folder or upper.st_dev != info.st_dev:
                    break  # a mount point is no entry
                sync_path(above)
            except PermissionError:
                break  # not ours, so not made by us
            if len(self._known) >= self.LIMIT:
                self._known.clear()
            self._known.add(key)
            folder, info = above, upper

    def forget(self) -> None:
        """Folders were removed: one that is made again may look like the old one."""
        self._known.clear()


def sync_tree(folder: str, folders: Folders) -> Iterator[str]:
    """Sync everything below a folder, and the folder's own entry; gives the files."""
    for top, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = os.path.join(top, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                sync_path(path)
                yield path
        sync_path(top)
    folders.sync(folder)


def read_token(environment: Mapping[str, str]) -> str:
    """What the service answers to, "" where an earlier version wrote none. Raises Stop where it cannot be read."""
    path = environment.get(TOKEN_FILE, "")
    try:
        return Path(path).read_text("ascii").strip() if path else ""
    except (OSError, ValueError) as error:
        raise Stop(MISCONFIGURED, f"the token of the store's sync in {path} cannot be read: {error}") from None


def ask(address: str, seconds: float = SYNC_SECONDS, **words: Any) -> dict[str, Any]:
    """The answer of the service at host:port to one request, with its ``token`` among the words. Raises OSError, also
    for what it could not do.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(json.dumps(words).encode() + b"\n")
        with connection.makefile("rb") as stream:
            line = stream.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        raise OSError("the store's sync service ended without an answer") from None
    if not isinstance(answer, dict) or answer.get("error"):
        raise OSError(f"the store's disk: {answer.get('error') if isinstance(answer, dict) else answer}")
    return answer


def sync_all(environment: Mapping[str, str]) -> None:
    """After a restore: VersityGW's whole file system at once. A folder's own `finish` has done it already."""
    if address := environment.get("TRACKBED_STORE_SYNC"):
        try:
            ask(address, 600, all=True, token=read_token(environment))
        except OSError as error:
            raise Stop(FAILED, f"the objects are stored, but not known to be on the disk: {error}") from None


def drop(environment: Mapping[str, str], bucket: str, key: str) -> bool:
    """Have the service remove all below a folder of a bucket; False where there is no service, or it cannot, as an
    earlier version, or where uploads that are no objects yet may be left: the store removes them then.
    """
    if address := environment.get("TRACKBED_STORE_SYNC"):
        with contextlib.suppress(OSError):
            return not ask(address, bucket=bucket, dropped=key, token=read_token(environment)).get("uploads", True)
    return False


def make_durable(environment: Mapping[str, str]) -> Journal | None:
    """Change MLflow's stores of this process so that they sync. Gives the journal of a folder store."""
    destination = environment.get("MLFLOW_ARTIFACTS_DESTINATION", "")
    if not destination.startswith("s3://"):
        journal = Journal(folder_of(destination).parent)
        _local(journal)
        return journal
    if address := environment.get("TRACKBED_STORE_SYNC"):
        token = read_token(environment)
        service = functools.partial(ask, address, token=token)
        with contextlib.suppress(OSError):  # from the first start on nothing without the token is answered
            service(seconds=5, result=True)
        _s3(service)
        _lists(address, token)
    return None  # MinIO syncs by itself; what an external store promises is its own matter


def _local(journal: Journal) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository  # type: ignore[import-not-found]

    folders, plain = (
        Folders(),
        {
            name: getattr(LocalArtifactRepository, name)
            for name in ("_publish_staged_artifact", "log_artifacts", "delete_artifacts")
        },
    )

    @functools.wraps(plain["_publish_staged_artifact"])
    def publish(
        self: Any,
        temp_file_path: str,
        destination_file_path: str,
        finalize_temp_path: Callable[[str], None] | None = None,
    ) -> None:
        if finalize_temp_path is not None:
            finalize_temp_path(temp_file_path)
        sync_path(temp_file_path)  # before it has its name: a name never leads to half a file
        os.replace(temp_file_path, destination_file_path)
        folders.sync(destination_file_path)
        journal.wrote(destination_file_path)

    @functools.wraps(plain["log_artifacts"])
    def log_artifacts(self: Any, local_dir: str, artifact_path: str | None = None) -> None:
        plain["log_artifacts"](self, local_dir, artifact_path)
        target = (
            os.path.join(self.artifact_dir, os.path.normpath(artifact_path)) if artifact_path else self.artifact_dir
        )
        for path in sync_tree(target, folders):
            journal.wrote(path)

    @functools.wraps(plain["delete_artifacts"])
    def delete(self: Any, artifact_path: str | None = None) -> None:
        plain["delete_artifacts"](self, artifact_path)
        folders.forget()
        journal.removed(
            os.path.join(self.artifact_dir, os.path.normpath(artifact_path)) if artifact_path else self.artifact_dir
        )

    LocalArtifactRepository._publish_staged_artifact = publish
    LocalArtifactRepository.log_artifacts = log_artifacts
    LocalArtifactRepository.delete_artifacts = delete


def _lists(address: str, token: str) -> None:
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository  # type: ignore[import-not-found]

    artifact_lists.install(S3ArtifactRepository, address, token)


def _s3(service: Callable[..., Any]) -> None:
    from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE  # type: ignore[import-not-found]
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository
    from mlflow.tracing.otel.otel_archival import TRACE_ARCHIVAL_FILENAME  # type: ignore[import-not-found]

    plain = {
        name: getattr(S3ArtifactRepository, name)
        for name in (
            "_upload_file",
            "upload_archived_trace_data_bytes",
            "complete_multipart_upload",
            "delete_artifacts",
        )
    }

    def sync(bucket: str, key: str) -> None:
        try:
            service(bucket=bucket, keys=[key])
        except OSError as error:
            say(f"{key} is stored, but not known to be on the disk: {error}")
            raise MlflowException(
                f"the artifact is not on the disk yet ({error}); try again", error_code=TEMPORARILY_UNAVAILABLE
            ) from None

    def below(self: Any, *names: str | None) -> tuple[str, str]:
        bucket, key = self.parse_s3_compliant_uri(self.artifact_uri)
        return bucket, posixpath.join(key, *(name for name in names if name))

    @functools.wraps(plain["_upload_file"])
    def upload(self: Any, s3_client: Any, local_file: str, bucket: str, key: str) -> None:
        plain["_upload_file"](self, s3_client, local_file, bucket, key)
        sync(bucket, key)

    @functools.wraps(plain["upload_archived_trace_data_bytes"])
    def trace(self: Any, data: bytes) -> None:
        plain["upload_archived_trace_data_bytes"](self, data)
        sync(*below(self, TRACE_ARCHIVAL_FILENAME))

    @functools.wraps(plain["complete_multipart_upload"])
    def complete(
        self: Any, local_file: str, upload_id: str, parts: Any = None, artifact_path: str | None = None
    ) -> Any:
        answer = plain["complete_multipart_upload"](self, local_file, upload_id, parts, artifact_path)
        sync(*below(self, artifact_path, os.path.basename(local_file)))
        return answer

    @functools.wraps(plain["delete_artifacts"])
    def delete(self: Any, artifact_path: str | None = None) -> None:
        plain["delete_artifacts"](self, artifact_path)
        bucket, key = below(self, artifact_path)
        try:
            service(bucket=bucket, removed=key)
        except OSError as error:
            say(f"the store's sync service was not told of a deletion: {error}")

    S3ArtifactRepository._upload_file = upload
    S3ArtifactRepository.upload_archived_trace_data_bytes = trace
    S3ArtifactRepository.complete_multipart_upload = complete
    S3ArtifactRepository.delete_artifacts = delete


def staged_leftovers(folder: Path, before: float) -> int:
    """Remove what uploads left that were cut off before that time (Unix seconds); gives the count."""
    count = 0
    for top, _, files in os.walk(folder):
        for name in files:
            if not name.startswith(STAGED):
                continue
            path = os.path.join(top, name)
            try:
                if os.lstat(path).st_mtime < before:
                    os.unlink(path)
                    count += 1
            except OSError:
                continue
    return count


def run(command: str, environment: Mapping[str, str]) -> None:
    """The commands `recheck` and `written`."""
    destination = environment.get("MLFLOW_ARTIFACTS_DESTINATION", "")
    if destination.startswith("s3://"):
        address = environment.get("TRACKBED_STORE_SYNC", "")
        if command == "written":
            print(json.dumps(ask(address, 5, result=True, token=read_token(environment)) if address else {}))
        return
    journal = Journal(folder_of(destination).parent)
    if command == "written":
        print(json.dumps(journal.result()))
        return
    # the server that starts takes no uploads yet
    if count := staged_leftovers(folder_of(destination), time.time() - 1):
        say(f"removed {count} half-written artifacts of an unclean stop")
    journal.recheck()
