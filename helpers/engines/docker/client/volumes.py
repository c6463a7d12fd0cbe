"""Volumes, and their files through containers that are never started."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from helpers.engines.docker.client.connection import LABEL, Connection, errors, words
from helpers.errors import TrackbedError

REMOVE_SECONDS = 3600  # for a volume: the engine removes each of its files before it answers


@dataclass(frozen=True)
class FileEntry:
    """A file to put into a volume; ``path`` relative to the volume's root."""

    path: str
    content: bytes
    uid: int
    gid: int
    mode: int


class Volumes(Connection):
    """Of this engine, with what is in them."""

    def volumes(self, names: Iterable[str]) -> dict[str, Mapping[str, str]]:
        """The labels of those of the named volumes that exist."""
        expected = set(names)
        listed = self.client.api.volumes().get("Volumes") or []
        return {v["Name"]: v.get("Labels") or {} for v in listed if v["Name"] in expected}

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        self.client.api.create_volume(name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Also one with very many files, which takes the engine minutes."""
        try:
            with self._patient(REMOVE_SECONDS):
                self.client.api.remove_volume(name)
        except errors().NotFound:
            return
        except errors().APIError as error:
            raise TrackbedError(
                f"volume {name} cannot be removed: {words(error)}", "stop the container that uses it, then try again"
            ) from None

    @contextmanager
    def _patient(self, seconds: int) -> Iterator[None]:
        """More time for an answer than the engine usually needs."""
        api = self.client.api
        usual, api.timeout = api.timeout, seconds
        try:
            yield
        finally:
            api.timeout = usual

    @contextmanager
    def _unstarted(self, image: str, binds: Any, **options: Any) -> Iterator[str]:
        """The id of a container that is never started: the engine's way to the files of its volumes."""
        api = self.client.api
        container = api.create_container(
            image,
            ["true"],
            entrypoint=[],
            labels={f"{LABEL}.helper": "volumes"},
            host_config=api.create_host_config(binds=binds, network_mode="none"),
            **options,
        )["Id"]
        try:
            yield container
        finally:
            api.remove_container(container, force=True)

    def fill(
        self, image: str, volumes: Mapping[str, tuple[int, int, int]], files: Mapping[str, list[FileEntry]]
    ) -> None:
        """Set the owner and mode of each volume's root and put files into it, over the engine's API.

        Works on remote engines, with read-only roots and any numeric user, and keeps contents out of argv.
        """
        api = self.client.api
        with self._unstarted(
            image, {name: {"bind": f"/volumes/{name}", "mode": "rw"} for name in volumes}, user="0"
        ) as container:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as tar:
                for name, (uid, gid, mode) in volumes.items():
                    root = tarfile.TarInfo(f"volumes/{name}")
                    root.type, root.uid, root.gid, root.mode = tarfile.DIRTYPE, uid, gid, mode
                    tar.addfile(root)
                    for entry in files.get(name, []):
                        info = tarfile.TarInfo(f"volumes/{name}/{entry.path}")
                        info.uid, info.gid, info.mode = entry.uid, entry.gid, entry.mode
                        info.size = len(entry.content)
                        tar.addfile(info, io.BytesIO(entry.content))
            api.put_archive(container, "/", buffer.getvalue())

    def volume_is_empty(self, name: str, image: str) -> bool:
        """Whether a volume holds nothing; seen through a container of ``image`` that is never started."""
        with self._unstarted(image, [f"{name}:/v:ro,nocopy"]) as container:
            stream, _ = self.client.api.get_archive(container, "/v/.")
            head = b"".join(itertools.islice(stream, 1))  # the rest of a data set is not read
            stream.close()
            with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as tar:
                return tar.next() is None or not head[512:1024].strip(b"\0")

    def read_file(self, image: str, volume: str, path: str) -> bytes:
        """A small file of a volume, through a container of ``image`` never started; b"" when it is not there."""
        with self._unstarted(image, [f"{volume}:/v:ro,nocopy"]) as container:
            try:
                stream, _ = self.client.api.get_archive(container, f"/v/{path}")
                with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                    result = tar.extractfile(path)
                    return result.read() if result else b""
            except errors().NotFound:
                return b""

    def disk_usage(self, volumes: Iterable[str]) -> dict[str, int]:
        """Bytes of each named volume (slow: the engine walks them)."""
        expected = set(volumes)
        listed = self.client.df().get("Volumes") or []
        return {v["Name"]: int((v.get("UsageData") or {}).get("Size", -1)) for v in listed if v["Name"] in expected}
