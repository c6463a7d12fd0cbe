"""helpers/files.py: what was written is on the disk, also where the kernel's way for one file system is closed."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import files


class Library:
    """The C library, whose syncfs answers as it is told."""

    def __init__(self, number: int) -> None:
        self.number = number

    def syncfs(self, handle: int) -> int:
        ctypes.set_errno(self.number)
        return -1 if self.number else 0


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[str]]:
    all_of_it: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: all_of_it.append("all"))

    def given(library: object) -> list[str]:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
        return all_of_it

    return given


def test_one_file_system_is_synced(tmp_path: Path, synced: Callable[[object], list[str]]) -> None:
    assert synced(Library(0)) == []
    files.sync_file_system(tmp_path)
    assert synced(Library(0)) == []


@pytest.mark.parametrize("library", [object(), Library(errno.ENOSYS), Library(errno.EPERM)])
def test_all_are_synced_where_one_cannot_be(
    tmp_path: Path, synced: Callable[[object], list[str]], library: object
) -> None:
    """Not Linux, an old kernel, a sandbox that refuses the call."""
    done = synced(library)
    files.sync_file_system(tmp_path)
    assert done == ["all"]


def test_a_disk_that_took_not_all_is_told(tmp_path: Path, synced: Callable[[object], list[str]]) -> None:
    done = synced(Library(errno.EIO))
    with pytest.raises(OSError, match="Input/output") as raised:
        files.sync_file_system(tmp_path)
    assert raised.value.errno == errno.EIO and raised.value.filename == str(tmp_path) and not done
