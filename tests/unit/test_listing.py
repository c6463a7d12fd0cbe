"""`invoke --list` stays cheap: nothing heavy is imported before a task runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("docker", "tenacity", "rich", "requests", "urllib3", "dotenv", "platformdirs", "supervisor", "mlflow")

# the help; the declarations of the settings, which are the tasks' flags, and what their kinds of values need
DECLARATIONS = {
    "helpers",
    "helpers.cli",
    "helpers.cli.help",
    "helpers.settings",
    *(f"helpers.settings.{name}" for name in ("flags", "model", "declaration", "declared", "kinds", "parsers")),
    *(f"helpers.settings.declared.{path.stem}" for path in (ROOT / "helpers" / "settings" / "declared").glob("*.py")),
    *(f"helpers.{name}" for name in ("byte_code", "gpu", "gpu.node_types", "references", "errors", "suggestions")),
}


def imported() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "invoke", "--list"],
        cwd=ROOT,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert "jupyter-url" in done.stdout
    return set(re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", done.stderr, re.MULTILINE))


def test_listing_imports_nothing_heavy() -> None:
    result = imported()
    assert "invoke.tasks" in result  # the report was understood
    wrong = {name for name in result if name.split(".")[0] in (*HEAVY, "helpers")} - DECLARATIONS
    assert not wrong, sorted(wrong)
