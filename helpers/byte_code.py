"""Byte code of the toolkit's modules. Invoke forbids Python to keep it, and compiling them all takes half a second."""

# tasks.py imports this before the modules that are to be kept: it has an effect when it is imported.
from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from importlib import machinery, util
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import PathEntryFinder

CLONE = Path(__file__).resolve().parent.parent


def is_kept(clone: Path) -> bool:
    """Whether Python may keep it in ``clone``: nobody said otherwise, the clone is this user's, and so will it be.

    The owner could not remove what root left there (`sudo invoke up`), and `git clean` would fail. Where the umask lets
    every account write to new folders, any of them could put its own in the place of what this user runs.
    """
    os.umask(mask := os.umask(0o022))
    try:
        return bool(not sys.flags.dont_write_bytecode and mask & stat.S_IWOTH and clone.stat().st_uid == os.geteuid())
    except OSError:
        return False


class Loader(machinery.SourceFileLoader):
    """Compiles a module whose byte code a full disk or a power cut has cut off; Python ends with a traceback there."""

    def get_code(self, fullname: str) -> CodeType | None:
        try:
            return super().get_code(fullname)
        except (EOFError, ImportError, TypeError, ValueError):  # all that marshal raises
            path = self.get_filename(fullname)
            code: CodeType = self.source_to_code(self.get_data(path), path)
            if not sys.dont_write_bytecode:
                with suppress(OSError):
                    Path(util.cache_from_source(path)).unlink()  # whoever imports it next keeps it whole
            return code


def load_below(folder: str) -> None:
    """Have modules at and below ``folder``, which is spelled as in sys.path, loaded by Loader."""
    usual = machinery.FileFinder.path_hook(
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
        (Loader, machinery.SOURCE_SUFFIXES),
        (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
    )

    def is_below(path: str) -> bool:
        return f"{path}/".startswith(f"{folder}/")

    def finder(path: str) -> PathEntryFinder:
        if not is_below(path):
            raise ImportError
        return usual(path)

    sys.path_hooks.insert(0, finder)
    for path in filter(is_below, list(sys.path_importer_cache)):
        del sys.path_importer_cache[path]  # found before


sys.dont_write_bytecode = not is_kept(CLONE)
load_below(str(Path(__file__).absolute().parent.parent))
