"""A Docker engine that is restarted, or killed, below a running project. It is an engine of the test's own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Clone, make_clone, require_docker
from tests.faults.conftest import ROUNDS, Harnesses
from tests.faults.harness import Fault, Harness, Tally
from tests.second_engine import Engine, network_namespace


@pytest.fixture(scope="module")
def second(clone_factory: Callable[..., Clone], deployments: Callable[[str], Clone]) -> Iterator[Engine]:
    """Running, with the images of the first."""
    require_docker()
    if os.geteuid() or shutil.which("dockerd") is None:
        pytest.skip("NOT TESTED: a Docker engine of the test's own needs root and dockerd")
    first = deployments("docker")  # its images are there
    engine = Engine(Path(tempfile.mkdtemp(prefix="tb-engine-", dir="/var/tmp")))
    with network_namespace():
        try:
            engine.start()
            engine.load_images_of(first)
            yield engine
        finally:
            engine.close()


@pytest.fixture(scope="module")
def below(second: Engine, tmp_path_factory: pytest.TempPathFactory, harnesses: Harnesses) -> Iterator[Harness]:
    """A project on that engine; docker commands of these tests go there too."""
    folder = Path(tempfile.mkdtemp(prefix="trackbed-test-"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", second.host)
        clone = make_clone(folder, "docker")
        clone.up()
        yield harnesses(clone)
        clone.invoke("down", "--delete-data", "--yes")
    shutil.rmtree(folder, ignore_errors=True)


def restart(engine: Engine, number: int) -> Fault:
    def fault(clone: Clone, rng: random.Random) -> None:
        engine.end(number)
        done = clone.invoke("status")
        assert done.returncode and "Traceback" not in done.stderr and "docker" in done.stderr.lower(), done.stderr
        engine.start()

    return fault


@pytest.mark.parametrize(("name", "number"), [("engine restarted", signal.SIGTERM), ("engine killed", signal.SIGKILL)])
def test_engine(
    below: Harness, second: Engine, name: str, number: int, rng: random.Random, tallies: dict[str, Tally]
) -> None:
    below.rng = rng
    tally = tallies.setdefault(f"docker, {name}", Tally())
    for _ in range(ROUNDS):
        below.round(restart(second, number), tally)
    below.verify(tally)
    done = below.clone.invoke("up")
    assert done.returncode == 0, done.stderr
