"""Which image was pushed or loaded last under a name: a node that has one of that name asks for no newer one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from helpers.engines.kubernetes import target
from helpers.project.state import make_folder, write_private
from helpers.settings import Settings

PUSHED, LOADED = "pushed.json", "loaded.json"


def keep(settings: Settings, references: Iterable[str]) -> None:
    """``references``: NAME:TAG@DIGEST; those without a digest are left out."""
    parts = (one.partition("@") for one in references)
    _keep(settings, PUSHED, {name: digest for name, _, digest in parts if digest})


def keep_loaded(settings: Settings, ids: Mapping[str, str]) -> None:
    """``ids``: of the images in this machine's Docker, by name."""
    _keep(settings, LOADED, ids)


def loaded(settings: Settings, name: str) -> str:
    """The id of the image that was loaded under a name; "" where none was from here."""
    return _read(settings, LOADED).get(name, "")


def reference(settings: Settings, name: str) -> str:
    """NAME:TAG with the digest that was pushed; as it is where none was from here."""
    digest = _read(settings, PUSHED).get(name, "")
    return f"{name}@{digest}" if digest else name


def _keep(settings: Settings, file: str, more: Mapping[str, str]) -> None:
    content = {**_read(settings, file), **more}
    write_private(make_folder(target.folder(settings), private=True) / file, json.dumps(content).encode())


def _read(settings: Settings, file: str) -> dict[str, str]:
    try:
        data = json.loads((target.folder(settings) / file).read_bytes())
        return {str(name): str(digest) for name, digest in data.items()}
    except (OSError, ValueError, AttributeError):
        return {}
