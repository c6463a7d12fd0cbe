"""Byte-compiles the image's packages and sorts them into folders, one for each layer of the image.

    python layers.py VENV TARGET

VENV/... appears as hard links in TARGET/LAYER/VENV/... for each LAYER below and for "rest". Equal packages give equal
folders, bit by bit with their times, so that a layer moves only when a package in it changed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, distributions
from importlib.util import cache_from_source
from pathlib import Path

# Distributions by layer: what is large or often released, with what is released together with it.
LAYERS = {
    "numpy": ("numpy",),
    "pandas": ("pandas",),
    "sqlalchemy": ("sqlalchemy", "alembic"),
    "psycopg2": ("psycopg2-binary",),
    "cryptography": ("cryptography",),
    "databricks": ("databricks-sdk",),
    "pydantic": ("pydantic", "pydantic-core"),
    "uvloop": ("uvloop",),
    "aiohttp": ("aiohttp", "aiosignal", "frozenlist", "multidict", "propcache", "yarl"),
    "web": ("uvicorn", "uvicorn-worker", "httptools", "gunicorn", "fastapi", "starlette", "flask", "werkzeug"),
    "mlflow": ("mlflow", "mlflow-skinny", "mlflow-tracing"),
    "boto3": ("boto3", "botocore", "s3transfer"),
}
REST = "rest"


def main(venv: Path, target: Path) -> None:
    owned = owners(next((venv / "lib").glob("python3*/site-packages")))
    layers: dict[str, dict[Path, int]] = {name: {} for name in (*LAYERS, REST)}
    for path in venv.rglob("*"):
        if path.is_symlink() or path.is_file():
            name, seconds = owned.get(path, (REST, 0))
            layers[name][path] = seconds
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, compiled in zip(layers, pool.map(compile_layer, layers.values()), strict=True):
            lay(target / name, layers[name] | compiled)


def owners(site: Path) -> dict[Path, tuple[str, int]]:
    """The layer of each installed file, and its time."""
    layer_of = {one: layer for layer, names in LAYERS.items() for one in names}
    found = {}
    for distribution in distributions(path=[str(site)]):
        layer, seconds = layer_of.get(distribution.name.lower().replace("_", "-"), REST), seconds_of(distribution)
        for file in distribution.files or ():
            found[Path(os.path.normpath(site / file))] = (layer, seconds)
    return found


def seconds_of(distribution: Distribution) -> int:
    """A time that changes with the distribution's files: browsers tell MLflow's pages apart by it."""
    return zlib.crc32((distribution.read_text("RECORD") or "").encode()) >> 2  # before 2004


def compile_layer(files: dict[Path, int]) -> dict[Path, int]:
    """The .pyc files, made by a process that has seen no other layer: what it saw shows in them."""
    sources = [path for path in files if path.suffix == ".py" and "site-packages" in path.parts]
    if not sources:
        return {}
    with tempfile.NamedTemporaryFile("w") as listed:
        listed.writelines(f"{path}\n" for path in sorted(sources))
        listed.flush()
        subprocess.run(
            [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-i", listed.name],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    return {Path(cache_from_source(str(path))): files[path] for path in sources}


def lay(layer: Path, files: dict[Path, int]) -> None:
    """Links to the files below ``layer``, all with their times."""
    for path, seconds in files.items():
        there = layer / path.relative_to("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, there, follow_symlinks=False)
        os.utime(there, (seconds, seconds), follow_symlinks=False)
    for folder, _, _ in os.walk(layer):
        os.utime(folder, (0, 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
