"""Artifacts of a running MLflow server: through its proxy, or by the run, model or trace that has them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any, cast
from urllib.parse import quote, urlsplit

from helpers.errors import TrackbedError
from helpers.imports.sources import File
from helpers.imports.tracking_server import API, PROXY, SERVED, Missing, TrackingServer

AJAX = "ajax-api/2.0/mlflow"  # where the server's own page reads
OWNERS = ("run", "model", "trace")  # what is asked for its artifacts; a model version of its own place is not
DEEPEST = 64  # folders in each other


@dataclass(frozen=True)
class Remote:
    """A folder of artifacts on the server; its files get names below ``target``.

    ``owner``: whose artifacts they are (kind and id), where the server's proxy does not have them.
    """

    server: TrackingServer
    path: str
    target: str
    known: bool
    owner: tuple[str, str] | None = None

    def files(self) -> Iterator[File]:
        """Every file, read from the server once it is asked for content. Raises Missing."""
        if self.owner and self.owner[0] == "trace":
            yield self._trace(self.owner[1])
        else:
            yield from self._files("", 0)

    def _trace(self, identity: str) -> File:
        """The spans of a trace, which is all that it has. Nothing tells of their size before."""
        with closing(self.server.download(f"{AJAX}/get-trace-artifact", request_id=identity)) as answer:
            content = answer.read()
        return File("traces.json", len(content), io.BytesIO(content))

    def _files(self, folder: str, depth: int) -> Iterator[File]:
        for entry in self._listed(folder):
            name = str(entry["path"]).rstrip("/")
            # the proxy's names are relative to what was asked, a run's to its artifacts
            path = name if self.owner or not folder else f"{folder}/{name.rpartition('/')[2]}"
            if not path or {"", ".", ".."} & set(path.split("/")) or depth > DEEPEST:
                raise TrackbedError(f"{self.server} lists an artifact of the name {name[:200]!r}", "remove it there")
            if entry.get("is_dir"):
                yield from self._files(path, depth + 1)
            else:
                yield File(path, int(entry.get("file_size", 0)), cast("IO[bytes]", Lazy(self, path)))

    def _listed(self, folder: str) -> list[dict[str, Any]]:
        if not self.owner:
            below = f"{self.path}/{folder}" if folder else self.path
            return list(self.server.get(PROXY, path=below).get("files", []))
        entries: list[dict[str, Any]] = []
        kind, identity = self.owner
        if kind == "run":
            pages = self.server.pages(f"{API}/artifacts/list", run_id=identity, path=folder)
        else:
            address = f"{API}/logged-models/{quote(identity)}/artifacts/directories"
            pages = self.server.pages(address, artifact_directory_path=folder)
        for page in pages:
            entries += page.get("files", [])
        return entries

    def open(self, path: str) -> IO[bytes]:
        if self.owner:
            kind, identity = self.owner
            if kind == "run":
                return self.server.download("get-artifact", run_id=identity, path=path)
            address = f"{AJAX}/logged-models/{quote(identity)}/artifacts/files"
            return self.server.download(address, artifact_file_path=path)
        return self.server.download(f"{PROXY}/{quote(f'{self.path}/{path}')}")


class Lazy(io.RawIOBase):
    """A file's content, asked for when it is read; from the beginning again after ``seek(0)``."""

    def __init__(self, folder: Remote, path: str) -> None:
        self._folder, self._path = folder, path
        self._stream: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset or whence:
            raise OSError("only the beginning can be gone to")
        self.close_stream()
        return 0

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        if self._stream is None:
            try:
                self._stream = self._folder.open(self._path)
            except Missing:
                raise TrackbedError(
                    f"{self._folder.server}: {self._path} was deleted meanwhile", "run the same command again"
                ) from None
        return self._stream.read(size) if size > 0 else self._stream.read()

    def close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def folder(server: TrackingServer, kind: str, identity: str, uri: str, target: str, known: bool) -> Remote | None:
    """Where the artifacts of a run, model, trace or version can be read; None where the API gives no way."""
    if uri.startswith(SERVED):
        parts = urlsplit(uri)
        own = urlsplit(server.url).netloc
        if parts.netloc and parts.netloc != own:
            return None  # another server's
        return Remote(server, parts.path.strip("/"), target, known)
    return Remote(server, "", target, known, (kind, identity)) if kind in OWNERS else None
