"""Hash-locked requirements: every requirements.in of the repository and the lock beside it, made by uv."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.errors import TrackbedError
from helpers.stack import ROOT

LOWEST_PYTHON = "3.11"
HEADER = "# Locked from {name} with hashes; `invoke lock` refreshes it.\n"


def inputs() -> tuple[Path, ...]:
    """Every requirements file that is locked."""
    return tuple(sorted(p for folder in (ROOT, ROOT / "docker", ROOT / "helpers")
                        for p in (folder.glob("*.in") if folder == ROOT else folder.rglob("*requirements.in"))))


def refresh(upgrade: bool = False) -> list[str]:
    """Lock each input for all supported Pythons, without index addresses. Raises TrackbedError with uv's words."""
    uv = Path(sys.executable).with_name("uv")
    done = []
    for path in inputs():
        lock = path.with_suffix(".txt")
        argv = [str(uv), "pip", "compile", "--quiet", "--universal", "--python-version", LOWEST_PYTHON,
                "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
                "--output-file", str(lock), *(["--upgrade"] if upgrade else []), str(path)]
        ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if ended.returncode:
            raise TrackbedError(f"{path.relative_to(ROOT)} cannot be locked: {ended.stderr.strip()}",
                                "is this machine online?")
        text = lock.read_text()
        header = HEADER.format(name=path.name)
        lock.write_text(text if text.startswith(header) else header + text)
        done.append(str(lock.relative_to(ROOT)))
    return done
