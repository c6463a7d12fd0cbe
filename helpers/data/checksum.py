"""One checksum over a set of files, whatever their order."""

from __future__ import annotations

import hashlib


class SetSum:
    """A checksum of a set of lines, whatever their order: stores list their objects in different ones."""

    def __init__(self) -> None:
        self._sum = 0
        self.count = 0

    def add(self, sha256: str, size: int, name: str) -> None:
        line = f"{sha256} {size} {name}".encode("utf-8", "surrogateescape")
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(line).digest())) % 2**256
        self.count += 1

    @property
    def text(self) -> str:
        return f"{self._sum:064x}"
