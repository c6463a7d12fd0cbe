"""External references: the images and wheel indexes that Trackbed fetches by name, from docker/references.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent.parent / "docker" / "references.toml"
DOCKER_HUB = ("docker.io", "index.docker.io")


@dataclass(frozen=True)
class Image:
    """An image of a registry: ``name`` with its tag, ``digest`` as in "sha256:..." or "" where none is known."""

    name: str
    digest: str = ""

    @property
    def reference(self) -> str:
        """What is pulled: the name, pinned by the digest where there is one."""
        return f"{self.name}@{self.digest}" if self.digest else self.name


@cache
def _content() -> dict[str, Any]:
    with FILE.open("rb") as stream:
        return tomllib.load(stream)


def image(key: str) -> Image:
    """The image of that key. Raises KeyError for another one."""
    return Image(**_content()["images"][key])


def images() -> dict[str, Image]:
    """Every image by its key."""
    return {key: image(key) for key in _content()["images"]}


def module(key: str) -> str:
    """A Go module with its version, as in "github.com/owner/name@v1.2.3"."""
    return str(_content()["modules"][key])


def wheel_index() -> str:
    """The address below which PyTorch has one index for each CUDA, ROCm and the CPU."""
    return str(_content()["wheels"]["base"])


def last_seen() -> str:
    """The day, as in "2026-10-28", on which the references were last seen to exist."""
    return str(_content()["last_seen"])


def without_digest(reference: str) -> str:
    """The name and tag of an image reference."""
    return reference.partition("@")[0]


def mirrored(reference: str, mirror: str) -> str:
    """The same image below a registry mirror; unchanged without one.

    The mirror takes the place of the registry's host: "postgres:18" becomes "MIRROR/library/postgres:18".
    ``mirror``: for every registry, or words as in "ghcr.io=MIRROR/PATH" for some of them.
    """
    mirrors = {registry: place for registry, _, place in (word.rpartition("=") for word in mirror.split())}
    host, _, path = reference.partition("/")
    if not path or not ("." in host or ":" in host or host == "localhost"):
        host, path = DOCKER_HUB[0], reference
    host = DOCKER_HUB[0] if host in DOCKER_HUB else host
    below = f"library/{path}" if host == DOCKER_HUB[0] and "/" not in path else path
    place = mirrors.get(host, mirrors.get("", ""))
    return f"{place}/{below}" if place else reference
