"""Hash-locked requirements: every requirements.in of the repository and the lock beside it, made by uv."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from helpers import commands, references
from helpers.clone import JUPYTER_FOLDER, ROOT
from helpers.errors import TrackbedError
from helpers.gpu import wheels
from helpers.uv_settings import uv_settings

LOWEST_PYTHON = "3.11"
ALONE = ("lightning-requirements.in",)  # names all that it needs, but for what other locks bring
HEADER = "# Locked from {name} with hashes; `invoke lock` refreshes it.\n"


def inputs() -> tuple[Path, ...]:
    """Every requirements file that is locked."""
    return tuple(
        sorted(
            p
            for folder in (ROOT, ROOT / "docker", ROOT / "helpers")
            for p in (folder.glob("*.in") if folder == ROOT else folder.rglob("*requirements.in"))
        )
    )


def refresh(upgrade: bool = False) -> list[str]:
    """Lock each input for all supported Pythons, without index addresses. Raises TrackbedError with uv's words."""
    done = []
    for path in inputs():
        lock = path.with_suffix(".txt")
        options = [*(["--upgrade"] if upgrade else []), *(["--no-deps"] if path.name in ALONE else [])]
        if problem := _compile(path, lock, options):
            raise TrackbedError(f"{path.relative_to(ROOT)} cannot be locked: {problem}", "is this machine online?")
        done.append(str(lock.relative_to(ROOT)))
    return done


def refresh_torch(
    base: str = "", folder: Path = JUPYTER_FOLDER, builds: tuple[str, ...] = wheels.BUILDS
) -> list[tuple[str, str]]:
    """Lock each build of PyTorch, from its wheel index below ``base`` or the Python package index.

    Gives each lock and why it could not be made ("").
    """
    result = []
    for build in builds:
        lock = folder / f"torch-{build}-requirements.txt"
        # complete and in one step: an image takes the lock as soon as it is there
        fresh = lock.with_suffix(".new")
        index = [] if build == wheels.CUDA13 else ["--index-url", f"{base or references.wheel_index()}/{build}"]
        # what PyTorch shares with the notebook's own lock has one version
        constraints = ["--constraints", str(JUPYTER_FOLDER / "requirements.txt")]
        problem = _compile(folder / f"torch-{build}.in", fresh, [*constraints, *index])
        if problem:
            fresh.unlink(missing_ok=True)
        else:
            fresh.replace(lock)
        result.append((lock.name, problem))
    return result


def _compile(path: Path, lock: Path, options: list[str]) -> str:
    """Lock one input; "" or uv's last words."""
    uv = Path(sys.executable).with_name("uv")
    argv = [
        str(uv),
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        LOWEST_PYTHON,
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--output-file",
        str(lock),
        *options,
        str(path),
    ]
    ended = commands.run(argv, None, 900, cwd=ROOT, env={**os.environ, **uv_settings(os.environ)})
    if ended.code:
        return commands.last_line(ended.stderr, f"exit code {ended.code}")
    text = lock.read_text()
    header = HEADER.format(name=path.name)
    lock.write_text(text if text.startswith(header) else header + text)
    return ""
