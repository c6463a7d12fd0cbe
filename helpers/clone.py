"""The folders of this clone."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MLFLOW_FOLDER = ROOT / "docker" / "mlflow"
SERVER_PACKAGE = MLFLOW_FOLDER / "trackbed_mlflow"
JUPYTER_FOLDER = ROOT / "docker" / "jupyter"


def server_files() -> tuple[Path, ...]:
    """The tracking server's own files: its program, the package that it runs, and MLflow's empty schema."""
    return (MLFLOW_FOLDER / "start.py", *sorted(SERVER_PACKAGE.rglob("*.py")), SERVER_PACKAGE / "schema.sql")
