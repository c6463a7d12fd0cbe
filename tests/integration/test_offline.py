"""A start from a bundle where there is no network but loopback, with nothing in any cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Clone, require_docker
from tests.integration import inspection
from tests.netns import require_namespaces
from tests.second_engine import network_namespace


@pytest.mark.embedded
def test_embedded_needs_no_network(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    require_namespaces()
    clone = clone_factory("embedded")
    written = tmp_path / "trackbed.bundle"
    done = clone.invoke("bundle", f"--to={written}", "--engine=embedded", "--gpu=none")
    assert done.returncode == 0, done.stderr
    sha256 = hashlib.sha256(written.read_bytes()).hexdigest()
    assert done.stdout == f"{sha256}  {written}\n"
    assert list(tmp_path.iterdir()) == [written], "what it was made with is gone"

    home = tmp_path / "home"
    home.mkdir()
    clone.environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    for name in [name for name in clone.environment if name.startswith(("PIP_", "UV_"))]:
        del clone.environment[name]
    with network_namespace():
        assert subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout == ""
        started = subprocess.run(
            ["sh", str(clone.folder / "setup.sh"), "up", "--from-bundle=trackbed.bundle"],
            cwd=tmp_path,
            # the Python that the bundle is for comes first
            env={
                **clone.environment,
                "PATH": f"{Path(sys.base_prefix) / 'bin'}{os.pathsep}{clone.environment['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert started.returncode == 0, started.stderr
        assert f"setup: installing the requirements from {written}" in started.stderr
        assert f"SHA-256 {sha256}" in started.stderr
        assert clone.invoke("check").returncode == 0
        again = clone.invoke("up", f"--from-bundle={written}")
        assert again.returncode == 0 and "nothing has to be made, so trackbed.bundle is not read" in again.stderr
        assert clone.invoke("down", "--yes").returncode == 0
        back = clone.invoke("up", f"--from-bundle={written}")
        assert back.returncode == 0 and "installing" not in back.stderr, back.stderr
        refused = clone.invoke("up", f"--from-bundle={written}", "--dry-run")
        assert refused.returncode == 2 and "--from-bundle has no effect with --dry-run" in refused.stderr
        assert clone.invoke("down", "--delete-data", "--yes").returncode == 0


@pytest.mark.docker
def test_an_image_comes_back_from_a_bundle(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    """Whole, on an engine without a network: tests/offline."""
    require_docker()
    clone = clone_factory("docker")
    name = f"trackbed-test/{clone.project}:1"
    with tarfile.open(tmp_path / "layer", "w") as archive:
        archive.add(__file__, "file")
    inspection.output("docker", "import", str(tmp_path / "layer"), name)
    identity = inspection.output("docker", "image", "inspect", "--format", "{{.Id}}", name)
    clone.environment |= {"TRACKBED_JUPYTER_IMAGE": name, "TRACKBED_TRACKING_URI": "http://192.0.2.1:5000"}
    written = tmp_path / "trackbed.bundle"
    try:
        done = clone.invoke("bundle", f"--to={written}")
        assert done.returncode == 0, done.stderr
        inspection.output("docker", "image", "rm", name)
        content = written.read_bytes()
        place = content.index(Path(__file__).read_bytes())
        written.write_bytes(content[:place] + b"?" + content[place + 1 :])
        refused = clone.invoke("jupyter", f"--from-bundle={written}")
        inspection.refused(refused, 1, "was not used: images/blobs/sha256/", "copy it again")
        assert inspection.run("docker", "image", "inspect", name).returncode, "nothing was loaded"

        written.write_bytes(content)
        begun = clone.invoke("jupyter", f"--from-bundle={written}")
        assert begun.returncode == 1 and "loading 1 image" in begun.stderr, "it has nothing that could be run"
        assert inspection.output("docker", "image", "inspect", "--format", "{{.Id}}", name) == identity
    finally:
        inspection.run("docker", "image", "rm", "-f", name)
