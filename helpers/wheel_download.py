"""The wheels of locked requirements, for a machine that has no network: fetched by pip, with pip's own settings."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers import commands
from helpers.errors import EngineUnavailable, TrackbedError
from helpers.gpu import wheels as gpu_wheels
from helpers.services import ProgressReporter
from helpers.uv_settings import uv_settings

SEEDS = ("pip", "setuptools", "wheel")  # what uv puts into a new environment


@dataclass(frozen=True)
class Requirements:
    """A file of requirements from ``index`` ("": the usual one). ``closed``: they name all that they need."""

    file: Path
    index: str = ""
    hashed: bool = True
    closed: bool = True

    def options(self) -> list[str]:
        """What pip is told."""
        return [
            *(["--require-hashes"] if self.hashed else []),
            *(["--no-deps"] if self.closed else []),
            *(["--index-url", self.index] if self.index and not self.environment() else []),
            "--requirement",
            str(self.file),
        ]

    def environment(self) -> dict[str, str]:
        """What pip's environment carries: an index that asks for a login, which the words of a command would show."""
        return {"PIP_INDEX_URL": self.index} if gpu_wheels.secret(self.index) else {}


def uv_program() -> str:
    """uv of the toolkit's environment. Raises EngineUnavailable where it is missing."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise EngineUnavailable(
            "uv is missing in the toolkit's venv", "pip install --require-hashes -r requirements.txt"
        )
    return uv


def fetch(needed: Sequence[Requirements], interpreter: str, scratch: Path, progress: ProgressReporter) -> Path:
    """Fetch the wheels for that Python into a folder of ``scratch``. Raises TrackbedError with pip's last words."""
    venv, wheels = scratch / "pip", scratch / "wheels"
    wheels.mkdir(exist_ok=True)
    environment = {**os.environ, **uv_settings(os.environ)}
    _follow([uv_program(), "venv", "--quiet", "--seed", "--python", interpreter, str(venv)], environment, progress)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "download", "--disable-pip-version-check", "--progress-bar=off"]
    pip += ["--only-binary=:all:", "--dest", str(wheels)]  # a source would be built, and its build needs a network
    seeds: tuple[list[str], dict[str, str]] = ([*SEEDS, "--no-deps"], {})
    for options, hidden in (seeds, *((one.options(), one.environment()) for one in needed)):
        _follow([*pip, *options], {**os.environ, **hidden}, progress, cwd=scratch)
        found = [path.stat().st_size for path in wheels.iterdir()]
        progress.step(f"{len(found)} wheels are here, {sum(found) / 2**20:.0f} MiB")
    return wheels


def _follow(argv: list[str], environment: dict[str, str], progress: ProgressReporter, cwd: Path | None = None) -> None:
    code, lines = commands.follow(argv, progress.output, env=environment, cwd=cwd)
    if code:
        said = [line.strip() for line in lines if line.strip()]
        raise TrackbedError(
            f"fetching the wheels of a bundle failed: {(said or ['no message'])[-1]}",
            "is this machine online? pip's settings (PIP_INDEX_URL, PIP_CERT, pip config) are honoured",
            tuple(said[-8:]),
        )


def least_glibc(names: Sequence[str]) -> tuple[int, int]:
    """The glibc that wheels of these names need at least, by their tags: the lowest of each, the highest of all."""
    result = (2, 17)
    for name in names:
        tags = name.removesuffix(".whl").rpartition("-")[2].split(".")
        needs = [_glibc(tag) for tag in tags if tag.startswith(("manylinux", "linux"))]
        result = max(result, min(needs, default=result))
    return result


def _glibc(tag: str) -> tuple[int, int]:
    parts = tag.split("_")
    if parts[0] == "manylinux" and parts[1:3] and all(part.isdecimal() for part in parts[1:3]):
        return int(parts[1]), int(parts[2])
    return (2, 17)  # manylinux2014 and older
