"""What every suite shares: the tasks as a user types them, and a system of its own per engine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]


def docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    return done.returncode == 0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Clone:
    """A clone of the repository with a project, ports and a state folder of its own; runs its tasks."""

    folder: Path
    state: Path
    engine: str
    project: str
    ports: dict[str, int]
    environment: dict[str, str] = field(default_factory=dict)

    def invoke(self, *words: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        """`invoke WORDS` in the clone, as a user's shell would run it."""
        return subprocess.run([sys.executable, "-m", "invoke", *words], cwd=self.folder, text=True,
                              env={**self.environment, **environment}, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=timeout, check=False)

    def value(self, *words: str) -> str:
        """The stdout of a task that has to succeed."""
        done = self.invoke(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[part]}"

    @property
    def token(self) -> str:
        found = re.search(r"token=(\S+)", self.value("jupyter-url"))
        assert found
        return found.group(1)


def make_clone(folder: Path, engine: str, project: str = "") -> Clone:
    """Copy the tracked files, as `git clone` would give them (uncommitted changes included)."""
    target = folder / "clone"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, listed):
        source = ROOT / os.fsdecode(name)
        if source.is_file():
            (target / os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / os.fsdecode(name))
    mlflow, jupyter, s3, console = free_ports(4)
    state = folder / "state"
    name = project or f"tb-{engine[:3]}-{uuid.uuid4().hex[:6]}"
    kept = {k: v for k, v in os.environ.items()
            if not k.startswith(("TRACKBED_", "MLFLOW_", "SSH_")) or k in ("TRACKBED_BUILD_NETWORK",)}
    environment = {**kept, "TRACKBED_PROJECT": name, "TRACKBED_STATE_DIR": str(state), "TRACKBED_ENGINE": engine,
                   "TRACKBED_MLFLOW_PORT": str(mlflow), "TRACKBED_JUPYTER_PORT": str(jupyter),
                   "TRACKBED_S3_PORT": str(s3), "TRACKBED_S3_CONSOLE_PORT": str(console)}
    if engine == "docker" and "TRACKBED_OBJECT_STORE" in os.environ:
        environment["TRACKBED_OBJECT_STORE"] = os.environ["TRACKBED_OBJECT_STORE"]
    return Clone(target, state, engine, name, {"mlflow": mlflow, "jupyter": jupyter, "s3": s3, "console": console},
                 environment)


@pytest.fixture(scope="session", params=["embedded", "docker"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine; without Docker its half is skipped loudly, or fails where it is required."""
    if request.param == "docker" and not docker_answers():
        if os.environ.get("TRACKBED_REQUIRE_DOCKER") == "1":
            pytest.fail("TRACKBED_REQUIRE_DOCKER=1, but no Docker engine answers")
        pytest.skip("NOT TESTED: no Docker engine answers on this machine")
    return str(request.param)


@pytest.fixture(scope="session")
def clone_factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Clone]]:
    """Clones that are taken down with their data at the end."""
    made: list[Clone] = []

    def make(engine: str, **options: str) -> Clone:
        folder = tmp_path_factory.mktemp(f"system-{engine}")
        for path in (folder, *folder.parents):  # the parts' own user has to get through
            if path.owner() == "root" and str(path).startswith("/tmp/pytest"):
                path.chmod(0o755)
        made.append(make_clone(folder, engine, **options))
        return made[-1]

    yield make
    for clone in made:
        clone.invoke("down", "--delete-data", "--yes")


@pytest.fixture(scope="session")
def system(engine: str, clone_factory: Callable[..., Clone]) -> Clone:
    """A system that is up, shared by the tests of a session that leave it up."""
    clone = clone_factory(engine)
    done = clone.invoke("up", timeout=900)
    assert done.returncode == 0, done.stderr
    return clone


@pytest.fixture
def invoke_run(system: Clone) -> Run:
    """Run a task of the shared system."""
    return system.invoke
