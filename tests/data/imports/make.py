"""Makes the sources for the tests of `invoke import`, each by a client of that version in an environment of its own.

    python -m tests.data.imports.make [FOLDER]

The archives come into FOLDER, or here. Needs a package index, and Python 3.11, which every one of them runs on.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests import remote_clients

HERE = Path(__file__).parent
MADE = "/tmp/old-mlflow"  # stands in the sources as their place, which they have left since
STEPS = 10_000  # values of the longest history
TRACING = ("opentelemetry-sdk<1.34", "opentelemetry-api<1.34")  # with newer ones they write no spans
CLIENTS: Mapping[str, tuple[str, ...]] = {
    "1.30": ("mlflow>=1.30,<1.31", "numpy<2", "setuptools<66"),
    "2.9": ("mlflow>=2.9,<2.10", "numpy<2", "sqlalchemy<2.1", "setuptools<80"),
    "2.20": ("mlflow>=2.20,<2.21", "sqlalchemy<2.1", "setuptools<80", *TRACING),
    "3.0": ("mlflow>=3.0,<3.1", "sqlalchemy<2.1", *TRACING),
    "3.17": ("mlflow==3.17.2",),
}


def make(version: str, target: Path) -> None:
    """The archive of one source, in ``target``."""
    made = Path(MADE) / version
    shutil.rmtree(made, ignore_errors=True)
    made.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        python = remote_clients.make_python(Path(folder) / "venv", *CLIENTS[version], version="3.11")
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "PYTHONUTF8": "1", "GIT_PYTHON_REFRESH": "quiet"}
        subprocess.run(
            [str(python), shutil.copy(HERE / "write_source.py", MADE), str(made), str(STEPS)],  # its place is logged
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=1800,
        )
    plain = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]
    archive = target / f"{version}.tar.xz"
    subprocess.run(["tar", *plain, "-C", MADE, "-cJf", str(archive), version], check=True, timeout=600)
    shutil.rmtree(made)


if __name__ == "__main__":
    for name in CLIENTS:
        make(name, Path(sys.argv[1]) if sys.argv[1:] else HERE)
