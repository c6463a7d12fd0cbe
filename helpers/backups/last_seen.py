"""The newest backup that this machine made at each encrypted place: who can write there may put an older state back,
in which every byte is as it was written. Only what lies elsewhere tells."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from helpers.backups import repository
from helpers.backups.encrypted import Encrypted
from helpers.backups.storage import BlobStore
from helpers.project.state import write_private

FILE = "backup-places.json"


def _load(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError, AttributeError):
        return {str(place): str(name) for place, name in json.loads((folder / FILE).read_bytes()).items()}
    return {}


def remember(folder: Path, store: BlobStore, name: str) -> None:
    """Keep that this backup was made there."""
    if isinstance(store, Encrypted):
        write_private(folder / FILE, json.dumps({**_load(folder), str(store): name}, indent=1).encode())


def missing(folder: Path, store: BlobStore) -> str:
    """A line where the newest backup that this machine made there is gone; "" where all is well."""
    name = _load(folder).get(str(store), "") if isinstance(store, Encrypted) else ""
    if not name or name in repository.names(store):
        return ""
    return (
        f"{store} does not have {name} any more, the newest backup that this machine made there. If nobody of yours "
        "deleted it, somebody else did, or put an older state back: see who can write there"
    )
