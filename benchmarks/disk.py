"""What the embedded engine takes of the disk, against one venv with the same two packages."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from benchmarks.systems import Measure, run, say
from helpers.clone import ROOT

PORTS = {f"TRACKBED_{name}_PORT": str(27050 + n) for n, name in enumerate(("MLFLOW", "JUPYTER", "S3", "S3_CONSOLE"))}


def taken(*folders: Path) -> float:
    """MiB, what has several links once."""
    return float(run("du", "-scm", *map(str, folders)).splitlines()[-1].split()[0])


def measure(folder: Path) -> Measure:
    """Both from nothing: a home, a clone with its .venv, a state folder; uv's cache counts, pip's does not."""
    found = Measure("embedded: disk after `sh setup.sh && invoke up`, against one venv", "<= 1.3", "MiB", 1.3)
    home, state = folder / "home", folder / "state"
    home.mkdir(mode=0o755)
    named = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKBED_", "UV_", "XDG_"))}
    named |= {**PORTS, "HOME": str(home), "TRACKBED_ENGINE": "embedded", "TRACKBED_STATE_DIR": str(state)}
    named |= {"TRACKBED_TORCH": "none", "TRACKBED_PROJECT": "bench-disk"}  # the plain venv has no PyTorch either
    alone = ("env", "-i", *(f"{name}={value}" for name, value in named.items()))
    copied = folder / "fresh"
    invoke = str(copied / ".venv" / "bin" / "invoke")
    run("git", "clone", "--quiet", str(ROOT), str(copied))
    try:
        run(*alone, "sh", "setup.sh", cwd=copied)
        run(*alone, invoke, "up", cwd=copied)
        found.embedded.append(taken(home, copied, state))
    finally:
        if Path(invoke).exists():
            run(*alone, invoke, "down", "--delete-data", "--yes", cwd=copied)
    plain = folder / "plain"
    run(sys.executable, "-m", "venv", str(plain))
    version = (ROOT / "docker" / "mlflow" / "requirements.in").read_text().partition("mlflow==")[2].split()[0]
    run(str(plain / "bin" / "pip"), "install", "--quiet", f"mlflow=={version}", "jupyterlab")
    found.other.append(taken(plain))
    say(f"disk {found.embedded[-1]:.0f} / {found.other[-1]:.0f} MiB")
    shutil.rmtree(plain)
    return found
