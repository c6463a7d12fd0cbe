"""Which image `invoke build --push` put under a name last. A node that has one of that name asks for no newer one."""

from __future__ import annotations

import json
from collections.abc import Iterable

from helpers.engines.kubernetes import target
from helpers.project.state import make_folder, write_private
from helpers.settings import Settings

FILE = "pushed.json"


def keep(settings: Settings, references: Iterable[str]) -> None:
    """``references``: NAME:TAG@DIGEST; those without a digest are left out."""
    parts = (one.partition("@") for one in references)
    kept = _read(settings) | {name: digest for name, _, digest in parts if digest}
    write_private(make_folder(target.folder(settings), private=True) / FILE, json.dumps(kept).encode())


def reference(settings: Settings, name: str) -> str:
    """NAME:TAG with the digest that was pushed; as it is where none was from here."""
    digest = _read(settings).get(name, "")
    return f"{name}@{digest}" if digest else name


def _read(settings: Settings) -> dict[str, str]:
    try:
        data = json.loads((target.folder(settings) / FILE).read_bytes())
        return {str(name): str(digest) for name, digest in data.items()}
    except (OSError, ValueError, AttributeError):
        return {}
