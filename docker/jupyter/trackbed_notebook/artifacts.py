"""Artifacts that come straight from the store are written as they arrive.

MLflow's own download keeps a range of 100 MiB in memory, once in pieces of 10 KiB and once whole, before it writes
it, four at a time: most of its time goes into fresh pages of memory. Here a range passes through one block. The
ranges, the threads, the addresses and the number of retries are MLflow's.

For each file of a folder, MLflow asks the server for an address. Here small files get theirs many at a time. What does
not arrive in this way is left to MLflow's own.

MLflow finds this as a plugin for artifacts of the scheme mlflow-artifacts. Where its class is not built as the one that
this was written for, or lacks what is imported here, MLflow's own is used. What goes through the server, both ways,
is MLflow's own as well.
"""

from __future__ import annotations

import errno
import inspect
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from typing import Any

from mlflow.environment_variables import (  # type: ignore[import-not-found]
    MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_S3_IGNORE_TLS,
)
from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
from mlflow.store.artifact.mlflow_artifacts_repo import (  # type: ignore[import-not-found]
    MlflowArtifactsRepository,
)
from mlflow.utils.credentials import get_default_host_creds  # type: ignore[import-not-found]
from mlflow.utils.file_utils import ArtifactProgressBar  # type: ignore[import-not-found]
from mlflow.utils.request_utils import cloud_storage_http_request  # type: ignore[import-not-found]
from mlflow.utils.rest_utils import http_request  # type: ignore[import-not-found]

BLOCK = 1 << 18  # bytes; what one thread holds
SILENT_SECONDS = 10  # MLflow's own limit for a store that sends nothing
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # asking again does not help
EXPECTED = ["self", "presigned_response", "remote_file_path", "local_path", "file_size", "chunk_size"]
NEEDED = (
    "_get_presigned_download_url",
    "chunk_thread_pool",
    "_download_file",
    "_iter_artifacts_recursive",
    "_construct_artifact_uri_and_path",
    "_is_multipart_download_enabled",
)
SMALL = 8 << 20  # bytes: a file up to here is one request
AT_ONCE = 500  # addresses in one answer of the server (trackbed_mlflow/download_addresses.py)
VALID = 0.5  # of the time for which an address is valid; then it is asked for again

_logger = logging.getLogger(__name__)


def fetch(url: str, headers: Mapping[str, str], path: str, first: int, last: int, whole: int = 0) -> None:
    """Write bytes ``first`` to ``last`` of the object to the same place in the file. ``whole``: the object's own size.

    Raises OSError (requests' errors are some) or urllib3's HTTPError where not exactly these came.
    """
    # as they are stored: a .gz keeps its encoding as a header, and must not be unpacked on the way
    asked = {**headers, "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
    with cloud_storage_http_request(
        "get", url, stream=True, headers=asked, timeout=SILENT_SECONDS, verify=not MLFLOW_S3_IGNORE_TLS.get()
    ) as answer:
        came = answer.headers.get("Content-Range", "")
        range_, _, size = came.partition("/")
        if answer.status_code != 206 or range_ != f"bytes {first}-{last}" or (whole and size != str(whole)):
            raise OSError(f"bytes {first}-{last} were asked for, the store answered {answer.status_code} {came}")
        left = last - first + 1
        with open(path, "r+b") as file:
            file.seek(first)
            for block in answer.raw.stream(BLOCK, decode_content=False):
                left -= len(block)
                if left < 0:
                    break
                file.write(block)
        if left:
            raise OSError(f"bytes {first}-{last} were asked for, {abs(left)} too {'few' if left > 0 else 'many'} came")


class Addresses:
    """Addresses of the small files of a folder. ``sign`` gives those of so many paths and their seconds, or raises."""

    def __init__(self, sign: Callable[[list[str]], tuple[list[str], float]]) -> None:
        self._sign, self._lock = sign, threading.Lock()
        self._sizes: dict[str, int] = {}  # of the files that are still to come, in their order
        self._signed: dict[str, tuple[str, float]] = {}  # address, and until when
        self._offered = True

    def note(self, path: str, size: int | None) -> None:
        """A file that will be asked for."""
        if self._offered and size and size <= SMALL:
            with self._lock:
                self._sizes[path] = size

    def take(self, path: str) -> tuple[str, int] | None:
        """Address and size of a noted file, once; None where MLflow has to ask for it."""
        with self._lock:
            size = self._sizes.get(path)
            if size is None:
                return None
            if not self._known(path):
                self._ask(path)
            self._sizes.pop(path, None)
            url, _ = self._signed.pop(path, ("", 0))
            return (url, size) if url else None

    def _known(self, path: str) -> bool:
        return path in self._signed and self._signed[path][1] > time.monotonic()

    def _ask(self, path: str) -> None:
        """Addresses of this file and of the next ones."""
        following = (other for other in self._sizes if other != path and not self._known(other))
        paths = [path, *itertools.islice(following, AT_ONCE - 1)]
        began = time.monotonic()
        try:
            urls, seconds = self._sign(paths)
            signed = {path: (url, began + seconds * VALID) for path, url in zip(paths, urls, strict=True)}
        except Exception as error:  # MLflow's own way tells what is wrong
            _logger.info("No addresses of many files at once: %s", error)
            self._offered = False
            self._sizes.clear()
            return
        self._signed.update(signed)


class Artifacts(MlflowArtifactsRepository):  # type: ignore[misc]
    """MLflow's repository with another way to write what the store sends."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self._addresses = Addresses(self._signed)

    def _signed(self, paths: list[str]) -> tuple[list[str], float]:
        if not self._is_multipart_download_enabled():
            raise OSError("this server sends files itself")
        uri, root = self._construct_artifact_uri_and_path("/mlflow-artifacts/presigned", "")
        root = root.removeprefix("/mlflow-artifacts/presigned").strip("/")
        answer = http_request(
            get_default_host_creds(uri),
            "/mlflow-artifacts/presigned",
            "POST",
            json={"paths": [f"{root}/{path}" if root else path for path in paths]},
        )
        answer.raise_for_status()
        data = answer.json()
        return [str(url) for url in data["urls"]], float(data["seconds"])

    def _iter_artifacts_recursive(self, path: Any) -> Any:
        for info in super()._iter_artifacts_recursive(path):
            if not info.is_dir:
                self._addresses.note(info.path, info.file_size)
            yield info

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        known = self._addresses.take(remote_file_path)
        if known is None or not self._fetch_small(*known, local_path):
            super()._download_file(remote_file_path, local_path)

    def _fetch_small(self, url: str, size: int, local_path: str) -> bool:
        """The file under its name when it is whole; False where the store gave anything else."""
        part = os.path.join(os.path.dirname(local_path), f".{os.urandom(8).hex()}.part")
        try:
            open(part, "xb").close()
            fetch(url, {}, part, 0, size - 1, size)
            os.replace(part, local_path)
        except Exception as error:
            if getattr(error, "errno", None) in FULL:
                raise
            _logger.info("%s comes in MLflow's own way: %s", os.path.basename(local_path), error)
            return False
        finally:
            if os.path.exists(part):
                os.unlink(part)
        return True

    def _multipart_download(
        self, presigned_response: Any, remote_file_path: str, local_path: str, file_size: int, chunk_size: int
    ) -> None:
        """The file appears under its name when it is whole, or not at all."""
        part = os.path.join(os.path.dirname(local_path), f".{os.urandom(8).hex()}.part")
        try:
            with open(part, "xb") as file:
                file.truncate(file_size)
            ranges = [(first, min(first + chunk_size, file_size) - 1) for first in range(0, file_size, chunk_size)]
            with ArtifactProgressBar.chunks(file_size, f"Downloading {remote_file_path}", chunk_size) as bar:
                self._fetch_all(presigned_response, remote_file_path, part, ranges, bar)
            os.replace(part, local_path)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise

    def _fetch_all(self, place: Any, name: str, path: str, ranges: list[tuple[int, int]], bar: Any) -> None:
        """All ranges; those that fail again with a fresh address, until MLflow's retries bring nothing any more."""
        retries = 0
        while ranges:
            futures = {
                self.chunk_thread_pool.submit(fetch, place.url, place.headers, path, *one): one for one in ranges
            }
            failed: list[tuple[int, int]] = []
            error: BaseException | None = None
            for future in as_completed(futures):
                if (result := future.exception()) is None:
                    bar.update()
                    continue
                failed.append(futures[future])
                error = result
                if getattr(result, "errno", None) in FULL:
                    for waiting in futures:
                        waiting.cancel()
                    raise result
            if not failed:
                return
            retries = retries + 1 if len(failed) == len(ranges) else 1  # a long file outlives its address many times
            if retries > MLFLOW_HTTP_REQUEST_MAX_RETRIES.get():
                raise MlflowException(f"{len(failed)} ranges of {name} could not be downloaded: {error}") from error
            _logger.info("Downloading %d ranges of %s again: %s", len(failed), name, error)
            # no wait: MLflow's own pause before a retry, which are counted
            time.sleep(MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR.get() * 2 ** (retries - 1))
            try:
                place = self._get_presigned_download_url(name)
            except Exception as refused:  # as MLflow does: the old address may serve
                _logger.warning("No fresh address for %s, trying the previous one: %s", name, refused)
            ranges = sorted(failed)


def chosen(own: type[Any], ours: type[Any]) -> type[Any]:
    """``ours`` where MLflow's ``own`` class is built as expected, else ``own``."""
    method = getattr(own, "_multipart_download", None)
    if method and list(inspect.signature(method).parameters) == EXPECTED and all(hasattr(own, name) for name in NEEDED):
        return ours
    _logger.info("MLflow's own way for downloads: %s is not built as expected", own.__name__)
    return own


Repository = chosen(MlflowArtifactsRepository, Artifacts)
