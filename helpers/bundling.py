"""`invoke bundle`: one file with all that a start needs on a machine without a network."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from helpers import bundle_file, bundles, clone, wheel_download
from helpers.bundles import Packing
from helpers.engines import select, shared
from helpers.engines.base import Engine
from helpers.errors import EngineUnavailable, SettingError
from helpers.project.project import Project
from helpers.project.state import make_folder
from helpers.services import Notice, ProgressReporter
from helpers.wheel_download import Requirements

UV_PYTHON = re.compile(r"cpython-3\.\d+.*-(linux|macos)-")  # the folder of a Python that uv brought
LEFT_OUT = re.compile(r"(^|/)(__pycache__|test|idlelib|lib2to3|site-packages)(/|$)|^share/")
TOOLKIT_ROOM = 200 << 20  # bytes: the toolkit's wheels, and a Python


def write(project: Project, target: Path, progress: ProgressReporter, notice: Notice) -> tuple[int, str]:
    """Write a bundle for the engines that ENGINE names, or for all that are here; gives its size and SHA-256."""
    engines = _engines(project, notice)
    with bundles.packing(target, make_folder(project.settings.folder), progress) as packing:
        bundles.require_room_to_pack(packing, TOOLKIT_ROOM, "a bundle")
        packing.python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        progress.step("fetching the wheels of the toolkit")
        _pack_toolkit(packing)
        for engine in engines:
            progress.step(f"bundling what the {engine.name} engine needs")
            engine.pack(packing)
        packing.finish(shared.for_bundle(engines[0]).kind)
    return packing.writer.size, packing.writer.sha256


def _engines(project: Project, notice: Notice) -> list[Engine]:
    asked = project.settings.engine
    if asked != select.AUTO:
        engine = select.make(project, asked)
        result = engine.availability()
        if not result.usable:
            raise EngineUnavailable(f"the {asked} engine cannot be used: {result.reason}", result.fix)
        return [engine]
    chosen: list[Engine] = []
    for name, kind in select.ENGINES.items():
        if not kind.is_automatic:
            continue
        try:
            engine = select.make(project, name)
            result = engine.availability()
            reason = "" if result.usable else result.reason
        except SettingError as error:
            reason = error.message
        if reason:
            notice(f"the bundle has nothing for the {name} engine: {reason}")
        else:
            chosen.append(engine)
    if not chosen:
        raise EngineUnavailable("no engine can be used here, so there is nothing to bundle", "see `invoke doctor`")
    return chosen


def _pack_toolkit(packing: Packing) -> None:
    """What setup.sh makes the toolkit's environment from: wheels, pip, and the Python where uv brought it."""
    scratch = packing.scratch / "toolkit"
    scratch.mkdir()
    lock = clone.ROOT / "requirements.txt"
    wheels = wheel_download.fetch([Requirements(lock)], sys.executable, scratch, packing.progress)
    for path in sorted(wheels.iterdir()):
        packing.add(bundle_file.TOOLKIT + path.name, path)
    base = Path(sys.base_prefix).resolve()
    if not UV_PYTHON.match(base.name):
        return
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base).as_posix()
        if LEFT_OUT.search(name) or not path.is_file() or not bundle_file.is_safe(bundle_file.PYTHON + name):
            continue
        if not path.is_symlink():
            packing.add(bundle_file.PYTHON + name, path, runs=bool(path.stat().st_mode & 0o100))
        elif path.suffix != "" and path.parent.name == "lib" and path.resolve().is_relative_to(base):
            packing.add(bundle_file.PYTHON + name, path)  # a library's short name: its content again, no link
