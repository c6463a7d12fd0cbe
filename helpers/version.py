"""Which Trackbed this is, and the versions of what it starts, read from the files that pin them."""

from __future__ import annotations

import re
from pathlib import Path

from helpers import __version__, commands, references

ROOT = Path(__file__).resolve().parent.parent


def commit(folder: Path = ROOT) -> str:
    """The clone's commit as `git describe` names it, "-dirty" after it where files were changed; "" without git."""
    done = commands.attempt(["git", "-C", str(folder), "describe", "--always", "--dirty"], 10)
    return done.stdout.strip() if done.code == 0 else ""


def _locked(package: str) -> str:
    lock = (ROOT / "docker" / "mlflow" / "requirements.txt").read_text(encoding="utf-8")
    match = re.search(rf"^{re.escape(package)}==(\S+)", lock, re.MULTILINE)
    return match[1] if match else ""


def versions() -> dict[str, str]:
    """Version by name: trackbed, commit ("" without git), mlflow, postgres and versitygw."""
    images = references.images()
    release = {name: images[name].name.rpartition(":")[2] for name in ("postgres", "versitygw")}
    return {
        "trackbed": __version__,
        "commit": commit(),
        "mlflow": _locked("mlflow"),
        "postgres": release["postgres"].partition("-")[0],
        "versitygw": release["versitygw"].removeprefix("v"),
    }
