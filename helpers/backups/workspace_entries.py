"""A workspace as entries of a backup, an archive or a repository: their names, and whether they fit to its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.backups.formats import PLAIN, Damaged
from helpers.data.checksum import SetSum

FILES, FILES_LIST = "workspace/", "workspace.jsonl"


def is_of_workspace(name: str) -> bool:
    return name.startswith(FILES) or name == FILES_LIST


def workspace_facts(about: dict[str, Any], files: SetSum, size: int) -> dict[str, Any]:
    """What the manifest of a backup says of the workspace in it; nothing where it is of the plain format."""
    if about["format"] == PLAIN:
        return {}
    return {"workspace_files": files.count, "workspace_bytes": size, "workspace_sum": files.text}


class FilesCheck:
    """Compares what a backup has of a workspace with its manifest. Raises Damaged."""

    def __init__(self, path: Path | str, manifest: dict[str, Any]) -> None:
        self._path, self._sums, self._size, self._listed = path, SetSum(), 0, False
        plain = manifest["format"] == PLAIN
        self._count: int = 0 if plain else manifest["workspace_files"]
        self._bytes: int = 0 if plain else manifest["workspace_bytes"]
        self._sum: str = SetSum().text if plain else manifest["workspace_sum"]
        self._list_allowed = not plain

    def fits(self, name: str, size: int) -> None:
        """Whether it may be there, before it is read."""
        listed = name == FILES_LIST
        more = self._sums.count >= self._count or self._size + size > self._bytes
        if self._listed or (not self._list_allowed if listed else more):
            raise Damaged(self._path, f"holds {name!r}, which its manifest does not tell of", rest=True)

    def add(self, name: str, size: int, sha256: str) -> None:
        self.fits(name, size)
        if name == FILES_LIST:
            self._listed = True
            return
        self._sums.add(sha256, size, name.removeprefix(FILES))
        self._size += size

    def end(self) -> None:
        held = self._sums.count, self._size, self._sums.text, self._listed
        if held != (self._count, self._bytes, self._sum, self._list_allowed):
            raise Damaged(self._path, "its workspace differs from its manifest")
