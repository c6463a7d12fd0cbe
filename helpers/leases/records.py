"""Plain values of a dataclass as a file of the state folder."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from helpers.project.state import write_private

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def load(path: Path, kind: type[T]) -> T | None:
    """None where there is none, or the file tells nothing."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        content, plain = json.loads(path.read_bytes()), kind()
        values: dict[str, Any] = {one.name: content[one.name] for one in fields(kind)}
        if all(type(value) is type(getattr(plain, name)) for name, value in values.items()):
            return kind(**values)
    return None


def save(path: Path, record: DataclassInstance) -> None:
    """Raises TrackbedError where that is not possible."""
    write_private(path, json.dumps(asdict(record), indent=1).encode())
