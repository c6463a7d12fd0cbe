"""Docker's images from a bundle, on an engine that never saw one, where there is no network but loopback."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Clone, require_docker
from tests.netns import require_namespaces
from tests.second_engine import Engine, network_namespace

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.docker
def test_docker_needs_no_network(clone_factory: Callable[..., Clone], tmp_path: Path) -> None:
    require_docker()
    require_namespaces()
    clone = clone_factory("docker")
    written = tmp_path / "trackbed.bundle"
    done = clone.invoke("bundle", f"--to={written}", timeout=1500)
    assert done.returncode == 0, done.stderr
    with tempfile.TemporaryDirectory(prefix="tb-engine-", dir="/var/tmp") as name, network_namespace():
        engine = Engine(Path(name))
        clone.environment["DOCKER_HOST"] = engine.host
        try:
            engine.start()
            started = clone.invoke("up", f"--from-bundle={written}", timeout=900)
            assert started.returncode == 0, started.stderr
            with written.open("rb") as stream:
                assert f"SHA-256 {hashlib.file_digest(stream, 'sha256').hexdigest()}" in started.stderr
            assert "building" not in started.stderr and "pulling" not in started.stderr
            checked = clone.invoke("check")
            assert checked.returncode == 0, checked.stdout + checked.stderr
            assert clone.invoke("down").returncode == 0
            back = clone.invoke("up", f"--from-bundle={written}")
            assert back.returncode == 0 and "loading" not in back.stderr, back.stderr
            assert clone.invoke("down", "--delete-data", "--yes").returncode == 0
            # settings that the bundle was not made with
            refused = clone.invoke("up", f"--from-bundle={written}", TRACKBED_POSTGRES_IMAGE="postgres:16-trixie")
            assert refused.returncode == 1
            assert "the bundle has no image postgres:16-trixie, which this project's settings name" in refused.stderr
        finally:
            engine.close()
