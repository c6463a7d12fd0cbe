"""Images here, and on their way from and to registries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from helpers.engines.docker.client.connection import Connection, errors, words
from helpers.errors import TrackbedError


class Images(Connection):
    """Of this engine."""

    def image(self, name: str) -> dict[str, Any] | None:
        """Id, labels, size, configuration, names with a registry's digest of an image; None when it is not there."""
        try:
            result = self.client.api.inspect_image(name)
        except errors().ImageNotFound:
            return None
        return {
            "id": result["Id"],
            "labels": (result.get("Config") or {}).get("Labels") or {},
            "size": int(result.get("Size", 0)),
            "digests": tuple(result.get("RepoDigests") or ()),
            "config": result.get("Config") or {},
        }

    def pull(self, name: str, amount: Callable[[int, int], None] | None = None) -> Iterator[str]:
        """Pull an image, giving a line per layer event. Raises TrackbedError with the registry's words.

        ``amount`` is told the bytes that are here, and those of all layers that are known by then.
        """
        named, _, digest = name.partition("@")
        repository, _, tag = named.rpartition(":")
        layers: dict[str, tuple[int, int]] = {}
        try:
            for event in self.client.api.pull(repository, tag=digest or tag, stream=True, decode=True):
                if "error" in event:
                    raise TrackbedError(str(event["error"]))
                detail = event.get("progressDetail") or {}
                if amount and event.get("status") == "Downloading" and detail.get("total"):
                    layers[str(event.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
                elif event.get("status") == "Download complete" and (layer := layers.get(str(event.get("id")))):
                    layers[str(event["id"])] = (layer[1], layer[1])
                if amount and layers:
                    amount(sum(done for done, _ in layers.values()), sum(whole for _, whole in layers.values()))
                yield " ".join(str(event.get(key, "")) for key in ("id", "status", "progress")).strip()
        except errors().DockerException as error:  # also of a credential helper that is not installed
            raise TrackbedError(words(error)) from None

    def tag(self, name: str, other: str) -> None:
        """Give a local image another name."""
        repository, _, tag = other.rpartition(":")
        self.client.api.tag(name, repository, tag)

    def push(self, name: str, target: str) -> Iterator[str]:
        """Tag a local image and push it under that name, giving a line per layer event."""
        repository, _, tag = target.rpartition(":")
        try:
            self.client.api.tag(name, repository, tag)
            for event in self.client.api.push(repository, tag=tag, stream=True, decode=True):
                if "error" in event:
                    raise TrackbedError(str(event["error"]))
                yield " ".join(str(event.get(key, "")) for key in ("id", "status", "progress")).strip()
        except errors().APIError as error:
            raise TrackbedError(words(error)) from None
