"""Hash-locked requirements: every requirements.in of the repository and the lock beside it, made by uv."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.accelerators import TORCH, TORCH_OLD_NVIDIA
from helpers.engines.venvs import uv_settings
from helpers.errors import TrackbedError
from helpers.images import TORCH_INDEX
from helpers.stack import JUPYTER_FOLDER, ROOT

LOWEST_PYTHON = "3.11"
HEADER = "# Locked from {name} with hashes; `invoke lock` refreshes it.\n"


def inputs() -> tuple[Path, ...]:
    """Every requirements file that is locked."""
    return tuple(sorted(p for folder in (ROOT, ROOT / "docker", ROOT / "helpers")
                        for p in (folder.glob("*.in") if folder == ROOT else folder.rglob("*requirements.in"))))


def refresh(upgrade: bool = False) -> list[str]:
    """Lock each input for all supported Pythons, without index addresses. Raises TrackbedError with uv's words."""
    done = []
    for path in inputs():
        lock = path.with_suffix(".txt")
        if problem := _compile(path, lock, ["--upgrade"] if upgrade else []):
            raise TrackbedError(f"{path.relative_to(ROOT)} cannot be locked: {problem}", "is this machine online?")
        done.append(str(lock.relative_to(ROOT)))
    return done


def refresh_torch(base: str = TORCH_INDEX, folder: Path = JUPYTER_FOLDER) -> list[tuple[str, str]]:
    """Lock PyTorch for each of its wheel indexes below ``base``. Gives each lock and why it could not be made ("")."""
    found = []
    for index in (*TORCH.values(), TORCH_OLD_NVIDIA):
        lock = folder / f"torch-{index}-requirements.txt"
        # complete and in one step: an image takes the lock as soon as it is there
        fresh = lock.with_suffix(".new")
        problem = _compile(folder / "torch.in", fresh, ["--index-url", f"{base}/{index}"])
        if problem:
            fresh.unlink(missing_ok=True)
        else:
            fresh.replace(lock)
        found.append((lock.name, problem))
    return found


def _compile(path: Path, lock: Path, options: list[str]) -> str:
    """Lock one input; "" or uv's last words."""
    uv = Path(sys.executable).with_name("uv")
    argv = [str(uv), "pip", "compile", "--quiet", "--universal", "--python-version", LOWEST_PYTHON,
            "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
            "--output-file", str(lock), *options, str(path)]
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
                           timeout=900,
                           env={**os.environ, **uv_settings(os.environ)})
    if ended.returncode:
        return (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1].strip()
    text = lock.read_text()
    header = HEADER.format(name=path.name)
    lock.write_text(text if text.startswith(header) else header + text)
    return ""
