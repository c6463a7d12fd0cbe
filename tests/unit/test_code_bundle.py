"""Modules of ours where the toolkit is not: complete, always the same, and without what is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers import code_bundle
from helpers.data import workspace_files
from helpers.engines.kubernetes import backup_plan

IN_THE_IMAGE = {"boto3", "botocore", "cryptography"}  # of MLflow's server


def test_a_pod_has_what_its_modules_import() -> None:
    names = code_bundle.modules(backup_plan.PROGRAM)
    assert code_bundle.packages(names) <= {*IN_THE_IMAGE, *backup_plan.LACKING}
    assert not {name for name in names if name.startswith(("helpers.cli", "helpers.settings", "helpers.lifecycle"))}


def test_a_pod_has_what_it_sends_to_the_notebook(tmp_path: Path) -> None:
    """As text: from a zip too."""
    assert {name.rpartition(".")[2] for name in backup_plan.SENT} == set(workspace_files.PARTS)
    (tmp_path / "helpers.zip").write_bytes(backup_plan.code())
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'helpers.zip')!r}); "
        "from helpers.data import workspace_files; sys.stdout.buffer.write(workspace_files.program())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.stdout == workspace_files.program() and b"def main" in done.stdout, done.stderr


def test_the_zip_alone_is_enough_to_load_them(tmp_path: Path) -> None:
    """-S and -I: neither this Python's packages nor the clone."""
    content = backup_plan.code()
    assert content == backup_plan.code() and len(content) < 512 * 1024  # a ConfigMap takes 1 MiB
    (tmp_path / "helpers.zip").write_bytes(content)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'helpers.zip')!r}); import {backup_plan.PROGRAM}, tenacity; "
        f"print(sys.modules[{backup_plan.PROGRAM!r}].__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and str(tmp_path) in done.stdout, done.stderr
