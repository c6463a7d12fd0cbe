"""The layers of MLflow's image (docker/mlflow/image/layers.py): a package that changes leaves the others bit by bit."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from helpers.clone import MLFLOW_FOLDER
from tests.unit.fakes import module_at

layers = module_at(MLFLOW_FOLDER / "image" / "layers.py")
SOURCE = "NAMES = {'a', 'b', 'c', 'd'}\n\n\ndef called(x=NAMES): return {'shared': x, 'version': VERSION}\n"


def venv(root: Path, **versions: str) -> Path:
    """Installed distributions of those versions, with a program each in bin/."""
    site = root / "venv" / "lib" / "python3.13" / "site-packages"
    (root / "venv" / "bin").mkdir(parents=True)
    (root / "venv" / "bin" / "python").symlink_to("/usr/bin/python3")
    (root / "venv" / "lib64").symlink_to("lib")
    for name, version in versions.items():
        files = {
            f"{name}/__init__.py": SOURCE + f"VERSION = '{version}'\n",
            f"../../../bin/{name}": "#!python\n",
            f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        }
        for path, text in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)
        record = f"{name}-{version}.dist-info/RECORD"
        (site / record).write_text(
            f"{record},,\n"
            + "".join(
                f"{path},sha256={hashlib.sha256(text.encode()).hexdigest()},{len(text)}\n"
                for path, text in files.items()
            )
        )
    return root / "venv"


def laid(root: Path, **versions: str) -> dict[str, dict[str, tuple[object, ...]]]:
    """Each layer's files and folders by path: content or target, rights and time."""
    shutil.rmtree(root, ignore_errors=True)
    layers.main(venv(root, **versions), root / "layers")
    return {
        layer.name: {
            str(path.relative_to(layer)): (
                str(path.readlink()) if path.is_symlink() else path.is_file() and path.read_bytes(),
                path.lstat().st_mode,
                path.lstat().st_mtime,
            )
            for path in layer.rglob("*")
        }
        for layer in (root / "layers").iterdir()
    }


def test_only_the_layer_of_a_changed_package_changes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    before = laid(root, numpy="1", uvloop="1", certifi="1", idna="1")
    assert laid(root, numpy="1", uvloop="1", certifi="1", idna="1") == before
    for name, layer in (("uvloop", "uvloop"), ("idna", "rest")):
        after = laid(root, **{"numpy": "1", "uvloop": "1", "certifi": "1", "idna": "1", name: "2"})
        assert {one for one in before if after[one] != before[one]} == {layer}
    assert before.keys() == {"numpy", "uvloop", "rest"}
    texts = [path for found in before.values() for path in found if path.endswith((".py", ".pyc", "bin/uvloop"))]
    assert sorted(Path(path).suffix for path in texts) == ["", *[".py"] * 4, *[".pyc"] * 4]


def test_what_changed_without_its_size_has_another_time(tmp_path: Path) -> None:
    """MLflow's pages are told apart by it in browsers."""
    one, other = (laid(tmp_path / "root", mlflow=version)["mlflow"] for version in "12")
    page = next(path for path in one if path.endswith("mlflow/__init__.py"))
    assert len(one[page][0]) == len(other[page][0])  # type: ignore[arg-type]
    assert one[page][2] != other[page][2]


def test_every_layer_is_copied() -> None:
    copied = re.findall(r"(?m)^COPY --link --from=build /layers/(\S+)/ /$", (MLFLOW_FOLDER / "Dockerfile").read_text())
    assert copied == [*layers.LAYERS, layers.REST, "own"]


@pytest.mark.parametrize("name", [name for names in layers.LAYERS.values() for name in names])
def test_what_has_a_layer_is_locked(name: str) -> None:
    assert f"\n{name}==" in (MLFLOW_FOLDER / "requirements.txt").read_text()
