"""Short hashes of values and files, for what has to be made again when one of them changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def digest(*items: object) -> str:
    """A short stable hash of values and files (a Path stands for its content)."""
    sha = hashlib.sha256()
    for item in items:
        if isinstance(item, Path):
            sha.update(item.read_bytes())
        else:
            sha.update(json.dumps(item, sort_keys=True, default=_fields_or_text).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def _fields_or_text(value: object) -> object:
    """A data class by its fields alone: a new name for the class starts nothing again."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def folder_digest(folder: Path, extra: Mapping[str, str] | None = None) -> str:
    """A hash of every file below a folder, by name and content; what an image is built from."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return digest([p.relative_to(folder).as_posix() for p in files], *files, dict(extra or {}))
