"""The folders of this clone."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MLFLOW_FOLDER = ROOT / "docker" / "mlflow"
SERVER_PACKAGE = MLFLOW_FOLDER / "trackbed_mlflow"
JUPYTER_FOLDER = ROOT / "docker" / "jupyter"
NOTEBOOK_PACKAGE = JUPYTER_FOLDER / "trackbed_notebook"
SHELL_FILES = JUPYTER_FOLDER / "startup"


def server_files() -> tuple[Path, ...]:
    """The tracking server's own files: its program, the package that it runs with its data, entry points."""
    entry_points = sorted(MLFLOW_FOLDER.glob("trackbed_mlflow-*.dist-info/*"))
    package = sorted(path for kind in ("py", "html", "js", "sql") for path in SERVER_PACKAGE.rglob(f"*.{kind}"))
    return (MLFLOW_FOLDER / "start.py", *package, *entry_points)


def notebook_files() -> dict[str, Path]:
    """The notebook's start-up files by their path in its folder for them: shells', plugins, entry points, examples."""
    package = (
        *NOTEBOOK_PACKAGE.glob("*.py"),
        *NOTEBOOK_PACKAGE.glob("workspace/**/*.ipynb"),
        *JUPYTER_FOLDER.glob("trackbed_notebook-*.dist-info/*"),
    )
    files = {path.relative_to(JUPYTER_FOLDER).as_posix(): path for path in package}
    files |= {path.relative_to(SHELL_FILES).as_posix(): path for path in SHELL_FILES.rglob("*") if path.is_file()}
    return dict(sorted(files.items()))
