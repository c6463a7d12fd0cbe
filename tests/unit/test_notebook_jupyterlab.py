"""JupyterLab starts without running yarn (trackbed_notebook/jupyterlab.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import clone
from tests.conftest import PATIENCE

COMMANDS = """
def _yarn_config(logger):
    return "yarn ran"

def registry():
    return _yarn_config(None)
"""
MAIN = """
import sys
from jupyterlab import commands
print(__name__, commands.registry(), *sys.argv[1:])
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (COMMANDS, "{'yarn config': {}, 'npm config': {}}"),
        ("def registry(): return 'nothing to ask'", "nothing to ask"),
    ],
)
def test_jupyterlab_runs_as_by_its_own_name_and_asks_nobody(tmp_path: Path, commands: str, said: str) -> None:
    assert run(tmp_path, commands) == (7, f"__main__ {said} --no-browser\n", "")


def test_a_damaged_jupyterlab_says_so_itself(tmp_path: Path) -> None:
    code, _, errors = run(tmp_path, "import nowhere_at_all")
    assert code == 1 and "__main__.py" in errors and "nowhere_at_all" in errors.splitlines()[-1]


def run(folder: Path, commands: str) -> tuple[int, str, str]:
    package = folder / "jupyterlab"
    package.mkdir()
    for name, content in (("__init__", ""), ("commands", commands), ("__main__", MAIN)):
        (package / f"{name}.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "trackbed_notebook.jupyterlab", "--no-browser"],
        env={**os.environ, "PYTHONPATH": f"{clone.JUPYTER_FOLDER}:{folder}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr
