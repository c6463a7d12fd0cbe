"""The folders of this clone."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MLFLOW_FOLDER = ROOT / "docker" / "mlflow"
SERVER_PACKAGE = MLFLOW_FOLDER / "trackbed_mlflow"
JUPYTER_FOLDER = ROOT / "docker" / "jupyter"


def server_files() -> tuple[Path, ...]:
    """The tracking server's own files: its program, the package that it runs, MLflow's empty schema, entry points."""
    entry_points = sorted(MLFLOW_FOLDER.glob("trackbed_mlflow-*.dist-info/*"))
    package = (*sorted(SERVER_PACKAGE.rglob("*.py")), SERVER_PACKAGE / "schema.sql")
    return (MLFLOW_FOLDER / "start.py", *package, *entry_points)
