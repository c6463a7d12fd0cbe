"""The modules of ours that one imports, as a zip from which Python runs them: for a place where the toolkit is not."""

from __future__ import annotations

import ast
import io
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from helpers import clone

MADE = (2020, 1, 1, 0, 0, 0)  # of each file: equal modules are an equal zip


def bundle(entry: str, packages: Sequence[str] = (), sent: Sequence[str] = ()) -> bytes:
    """The zip with ``entry``, what it imports when it is loaded, and packages of this Python that are plain modules;
    ``sent``: modules that it reads as text."""
    files = {_path(name): clone.ROOT / _path(name) for name in (*modules(entry), *sent)}
    for package in packages:
        folder = Path(*(import_module(package).__path__))
        files |= {f"{package}/{path.relative_to(folder)}": path for path in folder.rglob("*.py")}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, MADE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, files[name].read_bytes(), compresslevel=9)
    return content.getvalue()


def modules(entry: str) -> set[str]:
    """Its module, those that are imported while it is loaded, and their packages. What a function imports is not."""
    found: set[str] = set()
    left = [entry]
    while left:
        name = left.pop()
        if name in found or not _path(name):
            continue
        found.add(name)
        left += [name.rpartition(".")[0], *_imported(name)] if "." in name else _imported(name)
    return found


def packages(names: Iterable[str]) -> set[str]:
    """What these modules import, at any time, that is neither ours nor Python's own."""
    others = {one.partition(".")[0] for name in names for one in _imports(ast.walk(_tree(name)))}
    return others - set(sys.stdlib_module_names) - {__name__.partition(".")[0]}


def _path(name: str) -> str:
    """Below the clone; "" for what is no module of ours."""
    base = name.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if (clone.ROOT / path).is_file()), "")


def _tree(name: str) -> ast.Module:
    return ast.parse((clone.ROOT / _path(name)).read_text(encoding="utf-8"))


def _imported(name: str) -> Iterator[str]:
    return _imports(_tree(name).body)


def _imports(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{one.name}" for one in node.names if _path(f"{node.module}.{one.name}"))
