"""A Docker engine that is restarted, or killed, below a running system. It is an engine of the test's own."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import Clone, make_clone, require_docker
from tests.faults.conftest import ROUNDS, Harnesses
from tests.faults.harness import Fault, Harness, Tally
from tests.integration import seen

NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@contextmanager
def network_namespace() -> Iterator[None]:
    """This thread, and what it starts meanwhile, sees a network of its own with nothing in it but loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "unshare")
        seen.output("ip", "link", "set", "lo", "up")
        yield
    finally:
        assert libc.setns(before, NEW_NETWORK) == 0
        os.close(before)


class Engine:
    """A second dockerd with folders, a socket and a network namespace of its own.

    In the same namespace it would take away the first one's rules and its bridge.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["dockerd", "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--pidfile",
                 f"{self.folder}/pid", "-H", self.host],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 90
        while seen.run("docker", "-H", self.host, "info").returncode:
            assert time.monotonic() < deadline and self.process.poll() is None, self.log()
            time.sleep(0.2)

    def log(self) -> str:
        return (self.folder / "log").read_text()[-2000:]

    def end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(120)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGTERM)
        with suppress(OSError, ValueError):  # a containerd that a killed engine left
            os.kill(int((self.folder / "exec" / "containerd" / "containerd.pid").read_text()), signal.SIGTERM)
        seen.run("umount", "-R", f"{self.folder}/data")
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def second(clone_factory: Callable[..., Clone], systems: Callable[[str], Clone]) -> Iterator[Engine]:
    """Running, with the images of the first."""
    require_docker()
    if os.geteuid() or shutil.which("dockerd") is None:
        pytest.skip("NOT TESTED: a Docker engine of the test's own needs root and dockerd")
    first = systems("docker")  # its images are there
    images = {seen.output("docker", "inspect", "-f", "{{.Config.Image}}", name) for name in seen.containers(first)}
    engine = Engine(Path(tempfile.mkdtemp(prefix="tb-engine-", dir="/var/tmp")))
    saved = engine.folder / "images.tar"
    seen.output("docker", "save", "-o", str(saved), *sorted(images), timeout=300)
    with network_namespace():
        try:
            engine.start()
            seen.output("docker", "-H", engine.host, "load", "-q", "-i", str(saved), timeout=300)
            saved.unlink()
            yield engine
        finally:
            engine.close()


@pytest.fixture(scope="module")
def below(second: Engine, tmp_path_factory: pytest.TempPathFactory, harnesses: Harnesses) -> Iterator[Harness]:
    """A system on that engine; docker commands of these tests go there too."""
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
def test_engine(below: Harness, second: Engine, name: str, number: int, rng: random.Random,
                tallies: dict[str, Tally]) -> None:
    below.rng = rng
    tally = tallies.setdefault(f"docker, {name}", Tally())
    for _ in range(ROUNDS):
        below.round(restart(second, number), tally)
    below.settle(tally)
    done = below.clone.invoke("up")
    assert done.returncode == 0, done.stderr
