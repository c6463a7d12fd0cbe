"""`invoke up` with another setting and `invoke upgrade` from an older MLflow, while clients write."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from helpers.settings import Settings
from tests.conftest import Clone
from tests.environment.kubernetes import images
from tests.faults.conftest import client_python, tallies
from tests.faults.harness import Fault, Harness, Tally, Write, Writers, lost
from tests.faults.proxy import Proxy
from tests.integration import inspection
from tests.kubernetes import cluster

__all__ = ["client_python", "tallies"]
pytestmark = pytest.mark.timeout(1500)
OLD = "2.20.2"
BACKOFF = 300.0  # seconds after which MLflow's client has tried again, which waits twice as long each time
IMAGE = f"trackbed-test/mlflow:{OLD}"
# MLflow of that version in the place of the image's own server. Whatever else is asked of the image, it does itself.
PROGRAM = """\
#!/bin/sh
export PYTHONPATH=/opt/earlier
case $1 in
  prepare) exec python -c "import os
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore(os.environ['MLFLOW_BACKEND_STORE_URI'], '/tmp')" ;;
  wait) exit 0 ;;
  sealed) echo '{"rows": {}, "lost": {}, "opened": {}}'; exit 0 ;;
  serve) exec python -m mlflow.cli server --host 0.0.0.0 --port 8000 --workers 2 \\
    --backend-store-uri "$MLFLOW_BACKEND_STORE_URI" --artifacts-destination "$MLFLOW_ARTIFACTS_DESTINATION" ;;
  health) exec python -c "import urllib.request
urllib.request.urlopen('http://127.0.0.1:8000/api/2.0/mlflow/experiments/search?max_results=1', timeout=5)" ;;
esac
unset PYTHONPATH
exec /usr/local/bin/trackbed-mlflow "$@"
"""
DOCKERFILE = """\
FROM {base}
COPY earlier /opt/earlier
COPY --chmod=0755 trackbed-mlflow /opt/trackbed/venv/bin/trackbed-mlflow
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, clone_factory: Callable[..., Clone]) -> Iterator[Clone]:
    """A project that runs MLflow of an older version, with that version's schema."""
    clone = clone_factory("kubernetes")
    folder = tmp_path_factory.mktemp("image")
    uv = shutil.which("uv") or pytest.fail("uv is needed to get the older MLflow")
    argv = [uv, "pip", "install", "-q", "--target", str(folder / "earlier"), "--no-deps", "--only-binary", ":all:"]
    argv += ["--python-version", "3.13", f"mlflow=={OLD}", "sqlalchemy<2.1", "protobuf<6", "gunicorn<26"]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=300)
    (folder / "trackbed-mlflow").write_text(PROGRAM)
    (folder / "Dockerfile").write_text(DOCKERFILE.format(base=current_image(clone)))
    inspection.output("docker", "build", "-q", "-t", IMAGE, str(folder), timeout=300)
    images.import_images([IMAGE])
    clone.environment["TRACKBED_MLFLOW_REPLICAS"] = "2"
    done = clone.invoke("up", TRACKBED_MLFLOW_IMAGE=IMAGE)
    assert done.returncode == 0, done.stderr
    yield clone
    inspection.output("docker", "image", "rm", IMAGE)


@pytest.fixture(scope="module")
def harness(earlier: Clone, client_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Writers as people's scripts are: MLflow's client tries again, as it does by default."""
    relay = Proxy("127.0.0.1", cluster.service_address(earlier.project, "mlflow"), random.Random(1))
    reached = dataclasses.replace(earlier, ports={**earlier.ports, "mlflow": relay.port})
    seed, folder = random.randrange(2**31), tmp_path_factory.mktemp("journals")
    writers = Writers(reached.url("mlflow"), client_python, folder, seed, retries=7)
    yield Harness(reached, writers, random.Random(seed))
    writers.close()
    relay.close()


def current_image(clone: Clone) -> str:
    return Settings.load({}, clone.environment, clone.folder / ".env", {}).mlflow_image


def schema(clone: Clone) -> str:
    return inspection.psql(clone, "SELECT version_num FROM alembic_version")


def invoking(*words: str, **environment: str) -> Fault:
    """A task that has to succeed."""

    def fault(clone: Clone, rng: random.Random) -> None:
        done = clone.invoke(*words, around=environment)
        assert done.returncode == 0, done.stderr

    return fault


def written(harness: Harness) -> list[Write]:
    """Some writes, and the writers at rest."""
    harness.writers.go()
    harness.writers.progress()
    harness.writers.pause()
    return harness.writers.fresh()


def test_an_upgrade_and_a_rolling_update_lose_nothing(
    earlier: Clone, harness: Harness, tallies: dict[str, Tally]
) -> None:
    """Clients see a pause at most: what the server refuses meanwhile, they send again."""
    old, first = schema(earlier), written(harness)
    for name, task in {
        f"upgrade from MLflow {OLD}": invoking("upgrade", TRACKBED_MLFLOW_IMAGE=current_image(earlier)),
        "rolling update": invoking("up", TRACKBED_MLFLOW_WORKERS="1"),
    }.items():
        tally = tallies.setdefault(f"kubernetes, {name}", Tally())
        harness.writers.go()
        task(earlier, harness.rng)
        harness.recover(tally)
        harness.writers.progress(BACKOFF)
        harness.verify(tally)
        tally.rounds += 1
        assert tally.refused == 0, name
        assert schema(earlier) != old
    assert lost(harness.url, [*first, *harness.kept]) == []
    invoking("upgrade", "--back")(earlier, harness.rng)
    invoking("up", TRACKBED_MLFLOW_IMAGE=IMAGE)(earlier, harness.rng)
    assert schema(earlier) == old
    assert lost(harness.url, first) == []
