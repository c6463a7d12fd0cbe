"""What every suite shares: the tasks as a user types them, and a project of its own per engine."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.claims import free_ports

ROOT = Path(__file__).resolve().parent.parent
# Seconds. What an honest step may take where other suites run beside this one, on two processors. It takes a few where
# nothing else runs, so a test that waits for this long in vain has found something.
PATIENCE = 300
USER = "nobody"  # who is not root, on a machine where the tests are
KEPT = ("TRACKBED_BUILD_NETWORK", "TRACKBED_TORCH", "TRACKBED_MLFLOW_IMAGE", "TRACKBED_JUPYTER_IMAGE")
T = TypeVar("T")
Run = Callable[..., subprocess.CompletedProcess[str]]


SHARES = ("transfer", "docker", "embedded", "machine")  # of the integration tests; all but the last side by side


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pictures", action="store_true", help="take the README's pictures again")
    parser.addoption("--share", choices=SHARES, help="only this share of the integration tests")


def share_of(item: pytest.Item) -> str:
    """``machine``: changes what all projects here see, so nothing may run beside it; ``transfer``; else by engine."""
    for share in ("machine", "transfer"):
        if item.get_closest_marker(share):
            return share
    asked = getattr(item, "callspec", None)
    on_docker = item.get_closest_marker("docker") or (asked and asked.params.get("engine") == "docker")
    return "docker" if on_docker else "embedded"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The shares are disjoint, and together they are all tests."""
    if expected := config.getoption("--share"):
        out = [item for item in items if share_of(item) != expected]
        items[:] = [item for item in items if share_of(item) == expected]
        config.hook.pytest_deselected(items=out)


def docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False)
    return done.returncode == 0


def until(
    condition: Callable[[], T], seen: Callable[[], object] = lambda: "", seconds: float = PATIENCE, pause: float = 0.2
) -> T:
    """Wait for what has to come; gives what ``condition`` then returned. ``seen``: what a failure shows."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {seen()}"
        time.sleep(pause)
    return result


class Running:
    """A task that runs beside the test; its lines are collected as they come."""

    def __init__(self, argv: list[str], folder: Path, environment: dict[str, str]) -> None:
        # a group of its own, as a terminal gives; Ctrl-C works even where the tests run in the background
        self.process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            errors="replace",
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def until(self, what: str | Callable[[], object], timeout: float = PATIENCE) -> None:
        """Wait until a line that holds the pattern was printed, or until something is true, while the task runs."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.process.poll() is not None
            if ended:
                self._reader.join(3)  # its last lines may not be here yet
            if what() if callable(what) else re.search(what, self.output):
                return
            assert not ended and time.monotonic() < deadline, f"no {what!r} in:\n{self.output}"
            time.sleep(0.02)

    def end(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; gives the exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"did not end within {timeout:.0f} s:\n{self.output}") from None
        self._reader.join(3)  # a killed task's children may hold its output open
        return code

    def interrupt(self) -> int:
        """Ctrl-C: the whole group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.end()

    def kill(self) -> None:
        """`kill -9` of the task alone; what it started goes on."""
        self.process.kill()
        self.end()


@dataclass
class Clone:
    """A clone of the repository with a project, ports and a state folder of its own; runs its tasks."""

    folder: Path
    state: Path
    engine: str
    project: str
    ports: dict[str, int]
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = (sys.executable, "-m", "invoke")
    first_up: subprocess.CompletedProcess[str] | None = None

    def invoke(
        self, *words: str, timeout: float = 600, around: Mapping[str, str] | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`invoke WORDS` in the clone, as a user's shell would run it. ``around``: further variables."""
        return subprocess.run(
            [*self.command, *words],
            cwd=self.folder,
            text=True,
            env={**self.environment, **(around or {}), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *words: str) -> Running:
        """The same, without waiting for its end."""
        return Running([*self.command, *words], self.folder, self.environment)

    def up(self) -> subprocess.CompletedProcess[str]:
        """`invoke up`, which has to succeed."""
        done = self.invoke("up", timeout=900)
        assert done.returncode == 0, done.stderr
        if self.first_up is None:
            self.first_up = done
        return done

    def services(self) -> dict[str, dict[str, Any]]:
        """`invoke status --format=json`, by service."""
        return {
            service["service"]: service
            for service in json.loads(self.invoke("status", "--format=json").stdout)["services"]
        }

    @property
    def project_folder(self) -> Path:
        return self.state / self.project

    def value(self, *words: str) -> str:
        """The stdout of a task that has to succeed."""
        done = self.invoke(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service]}"

    @property
    def token(self) -> str:
        match = re.search(r"token=(\S+)", self.value("jupyter-url"))
        assert match
        return match.group(1)


def make_clone(folder: Path, engine: str, project: str = "") -> Clone:
    """Copy the tracked files, as `git clone` would give them (uncommitted changes included)."""
    target = folder / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    for path in map(os.fsdecode, filter(None, listed)):
        source = ROOT / path
        if source.is_file():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / path)
    mlflow, jupyter, s3, console = free_ports(4)
    state = folder / "state"
    name = project or f"tb-{engine[:3]}-{uuid.uuid4().hex[:6]}"
    # what a runner below ssh or systemd has would change what tasks print
    others = ("TRACKBED_", "MLFLOW_", "SSH_", "JOURNAL_STREAM")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(others) or k in KEPT}
    environment = {
        **kept,
        "TRACKBED_PROJECT": name,
        "TRACKBED_STATE_DIR": str(state),
        "TRACKBED_ENGINE": engine,
        "TRACKBED_LOCAL_ACCESS": "open",  # whoever else has an account where the tests run
        "TRACKBED_MLFLOW_PORT": str(mlflow),
        "TRACKBED_JUPYTER_PORT": str(jupyter),
        "TRACKBED_S3_PORT": str(s3),
        "TRACKBED_S3_CONSOLE_PORT": str(console),
    }
    if engine == "docker" and "TRACKBED_OBJECT_STORE" in os.environ:
        environment["TRACKBED_OBJECT_STORE"] = os.environ["TRACKBED_OBJECT_STORE"]
    return Clone(
        target, state, engine, name, {"mlflow": mlflow, "jupyter": jupyter, "s3": s3, "console": console}, environment
    )


def as_user(clone: Clone, folder: Path, name: str = USER) -> None:
    """From now on the clone's tasks run as a normal user. Nothing to do where the tests are one already."""
    if os.geteuid() != 0:
        return
    account = pwd.getpwnam(name)
    drop = (
        shutil.which("setpriv") or "setpriv",
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--",
    )
    home = folder / "home"
    home.mkdir()
    clone.environment = {k: v for k, v in clone.environment.items() if not k.startswith(("UV_", "XDG_", "SUDO_"))}
    clone.environment |= {"HOME": str(home), "USER": name, "LOGNAME": name}
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    clone.command = (*drop, sys.executable, "-m", "invoke")
    if clone.invoke("--version").returncode:  # the tests' own Python is root's alone: a copy of the toolkit's venv
        venv = folder / "toolkit"
        for argv in (
            ["uv", "venv", "--quiet", "--python", sys.executable, str(venv)],
            [
                "uv",
                "pip",
                "sync",
                "--quiet",
                "--require-hashes",
                "--python",
                str(venv / "bin" / "python"),
                str(clone.folder / "requirements.txt"),
            ],
        ):
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=300)
        clone.command = (*drop, str(venv / "bin" / "python"), "-m", "invoke")
        if clone.invoke("--version").returncode:
            pytest.skip(f"NOT TESTED as a normal user: no Python here that {name} can run")


def require_docker() -> None:
    """Skip loudly without an engine; fail where one is required."""
    if docker_answers():
        return
    if os.environ.get("TRACKBED_REQUIRE_DOCKER") == "1":
        pytest.fail("TRACKBED_REQUIRE_DOCKER=1, but no Docker engine answers")
    pytest.skip("NOT TESTED: no Docker engine answers on this machine")


@pytest.fixture(scope="session", params=["embedded", "docker"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine; without Docker its half is skipped loudly, or fails where it is required."""
    if request.param == "docker":
        require_docker()
    return str(request.param)


@contextmanager
def clones() -> Iterator[Callable[..., Clone]]:
    """Makes clones that are taken down with their data at the end. ``user``: run by a normal user."""
    created: list[Clone] = []

    def make(engine: str, user: bool = False, **options: str) -> Clone:
        # not below pytest's own folder, which every other pytest on the machine closes for other users
        folder = Path(tempfile.mkdtemp(prefix="trackbed-test-"))
        folder.chmod(0o755)
        clone = make_clone(folder, engine, **options)
        if user:
            as_user(clone, folder)
        created.append(clone)
        return clone

    yield make
    for clone in created:
        shutil.rmtree(clone.project_folder / "workspace", ignore_errors=True)  # its owner's account stays with it
        clone.invoke("down", "--delete-data", "--yes")
        shutil.rmtree(clone.folder.parent, ignore_errors=True)
        if clone.engine == "embedded" and os.geteuid() == 0:  # a test removed the data, and left the workspace
            subprocess.run(["userdel", f"trackbed-{clone.project}-nb"], capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def clone_factory() -> Iterator[Callable[..., Clone]]:
    """Clones of one module: what has ended must not cost the others time."""
    with clones() as make:
        yield make


@pytest.fixture(scope="session")
def lasting_clones() -> Iterator[Callable[..., Clone]]:
    """Clones that several modules share."""
    with clones() as make:
        yield make


@pytest.fixture(scope="session")
def deployments(lasting_clones: Callable[..., Clone]) -> Callable[[str], Clone]:
    """One project per engine that is up, made when it is first asked for."""
    created: dict[str, Clone] = {}

    def get(engine: str) -> Clone:
        if engine not in created:
            clone = lasting_clones(engine)
            clone.up()
            created[engine] = clone
        return created[engine]

    return get


@pytest.fixture(scope="session")
def deployment(engine: str, deployments: Callable[[str], Clone]) -> Clone:
    """A project that is up, shared by the tests of a session that leave it up."""
    return deployments(engine)


@pytest.fixture
def invoke_run(deployment: Clone) -> Run:
    """Run a task of the shared project."""
    return deployment.invoke
