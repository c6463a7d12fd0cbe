"""Clients as they are in the wild against ours and against a plain server: old versions of MLflow, other libraries, the
command line, the Java client, thousands of files, a large one; outside and in the notebook. Needs a package index, and
an hour's patience.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import remote_clients
from tests.conftest import ROOT, Clone
from tests.integration import inspection
from tests.integration.workload import Lab

SCRIPT = Path(__file__).with_name("client_libraries.py")
JAVA = Path(__file__).with_name("java")
LARGE = 1200 << 20
PATIENCE = 1700  # seconds: what installs packages on a small machine
OLD = {
    "1.30": ("mlflow>=1.30,<1.31", "scikit-learn<1.4", "numpy<2", "setuptools<80"),
    "2.9": ("mlflow>=2.9,<2.10", "setuptools<80"),
    "2.22": ("mlflow>=2.22,<2.23",),
}
LIBRARIES = (
    "optuna",
    "optuna-integration",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
    "xgboost-cpu",
)
LIGHT = ("opentelemetry", "sklearn", "xgboost", "optuna", "evaluate", "genai", "commands", "serve")
WITH_TORCH = ("lightning", "transformers")
# Run in the notebook: {words} are a program's arguments after the notebook's own Python
IN_THE_NOTEBOOK = """
import os, subprocess, sys, tempfile
script = os.path.join(tempfile.mkdtemp(), "script.py")
with open(script, "w") as file:
    file.write({script!r})
done = subprocess.run([{python} or sys.executable, script, *{words!r}], capture_output=True, text=True)
assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
print(done.stdout.splitlines()[-1])
"""
Plain = Callable[[str, Path], Any]

pytestmark = pytest.mark.timeout(2 * PATIENCE)


def own_name() -> str:
    return f"long-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def current(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return remote_clients.make_python(tmp_path_factory.mktemp("current") / "venv")


@pytest.fixture(scope="session")
def plain(current: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with remote_clients.plain_server(current, tmp_path_factory.mktemp("plain")) as uri:
        yield uri


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The Python of a client of that version. None of them runs on a newer Python than this one."""

    @cache
    def make(version: str) -> Path:
        return remote_clients.make_python(tmp_path_factory.mktemp("old") / "venv", *OLD[version], version="3.11")

    return make


@pytest.fixture(scope="session")
def constraints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the notebook has: the same versions outside, so that the same is logged."""
    lock = (ROOT / "docker" / "jupyter" / "requirements.txt").read_text()
    path = tmp_path_factory.mktemp("constraints") / "constraints.txt"
    path.write_text("\n".join(re.findall(r"^([\w.-]+==[^\\\n]+)", lock, re.MULTILINE)) + "\n")
    return path


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory, constraints: Path) -> Path:
    return remote_clients.make_python(
        tmp_path_factory.mktemp("libraries") / "venv",
        "--constraint",
        str(constraints),
        "mlflow",
        "scikit-learn",
        "matplotlib",
        *LIBRARIES,
    )


@pytest.fixture(scope="session")
def torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """6 GB, which neither the packages' cache nor pytest's kept folders need to hold."""
    folder = tmp_path_factory.mktemp("torch")
    yield remote_clients.make_python(
        folder / "venv", "--no-cache", "mlflow==3.17.2", "torch", "lightning", "transformers[torch]", timeout=PATIENCE
    )
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest Java client and what it needs."""
    missing = [name for name in ("java", "mvn") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"NOT TESTED: no {' and no '.join(missing)} on this machine (Debian: default-jdk-headless, maven)")
    folder = tmp_path_factory.mktemp("java")
    inspection.output(
        "mvn",
        "--batch-mode",
        "--quiet",
        f"-Dmaven.repo.local={folder / 'repository'}",
        "--file",
        str(JAVA / "pom.xml"),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={folder / 'jars'}",
        timeout=600,
    )
    return folder / "jars"


def logged(python: Path, uri: str, folder: Path, what: str) -> Any:
    """What a library logs to a server by itself, as its client reads it back."""
    done = inspection.run(
        str(python),
        str(SCRIPT),
        own_name(),
        what,
        timeout=PATIENCE,
        cwd=folder,
        env=remote_clients.environment(python, uri, folder),
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def expected(plain: str, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """What that is on a plain server: asked once."""
    known: dict[str, Any] = {}

    def ask(what: str, python: Path) -> Any:
        if what not in known:
            known[what] = logged(python, plain, tmp_path_factory.mktemp("expected"), what)
        return known[what]

    return ask


def in_the_notebook(deployment: Clone, script: Path, *words: str, python: str = "") -> dict[str, Any]:
    cell = IN_THE_NOTEBOOK.format(script=script.read_text(), words=words, python=repr(python))
    return Lab(deployment.value("jupyter-url")).run_cells([cell], timeout=PATIENCE).result


@pytest.fixture(scope="session")
def notebook(deployment: Clone, constraints: Path) -> Clone:
    """The project, when `pip install` in its notebook has brought the libraries."""
    cell = (
        f"import subprocess, sys\nopen('/tmp/constraints-{deployment.project}.txt', 'w').write("
        f"{constraints.read_text()!r})\ndone = subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', "
        f"'--constraint', '/tmp/constraints-{deployment.project}.txt', *{LIBRARIES!r}], capture_output=True, "
        "text=True)\nassert done.returncode == 0, done.stderr[-2000:]\n"
    )
    Lab(deployment.value("jupyter-url")).run_cells([cell], timeout=PATIENCE)
    return deployment


@pytest.mark.parametrize("version", OLD)
def test_old_clients_read_back_what_a_plain_server_gives(
    deployment: Clone, old: Callable[[str], Path], plain: str, tmp_path: Path, version: str
) -> None:
    ours, theirs = (
        remote_clients.logged(old(version), uri, tmp_path / own_name(), own_name(), timeout=PATIENCE)
        for uri in (deployment.url("mlflow"), plain)
    )
    assert ours == theirs


def test_an_older_client_in_the_notebook(
    deployment: Clone, tmp_path: Path, old: Callable[[str], Path], plain: str
) -> None:
    """A virtual environment of one's own, with what an older project asks for, which is not psutil; the notebook's
    variables stay."""
    cell = (
        "import json, os, subprocess, sys, tempfile\nfolder = tempfile.mkdtemp()\n"
        "for words in (['-m', 'venv', folder], ['-m', 'pip', '--python', folder, 'install', '--quiet', "
        f"*{OLD['2.22']!r}]):\n"
        "    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)\n"
        "    assert done.returncode == 0, done.stderr[-2000:]\n"
        "print(json.dumps({'python': os.path.join(folder, 'bin', 'python')}))\n"
    )
    python = Lab(deployment.value("jupyter-url")).run_cells([cell], timeout=PATIENCE).result["python"]
    result = in_the_notebook(
        deployment, remote_clients.SCRIPT, own_name(), "20", str(remote_clients.LARGE), python=python
    )
    assert result == remote_clients.logged(old("2.22"), plain, tmp_path, own_name(), timeout=PATIENCE)


def test_thousands_of_files_and_a_large_one(deployment: Clone, current: Path, tmp_path: Path) -> None:
    result = remote_clients.logged(current, deployment.url("mlflow"), tmp_path, own_name(), 2000, LARGE, timeout=3000)
    assert result["large"] and result["tree"] and result["listed"]["large.bin"] == LARGE
    assert len([path for path in result["listed"] if path.startswith("tree/")]) == 2000


def test_the_notebook_sends_and_gets_thousands_of_files_and_a_large_one(deployment: Clone) -> None:
    result = in_the_notebook(deployment, remote_clients.SCRIPT, own_name(), "2000", str(LARGE))
    assert result["large"] and result["tree"] and result["listed"]["large.bin"] == LARGE
    assert len([path for path in result["listed"] if path.startswith("tree/")]) == 2000


@pytest.mark.parametrize("what", LIGHT)
def test_what_libraries_and_commands_log_outside(
    deployment: Clone, libraries: Path, expected: Plain, tmp_path: Path, what: str
) -> None:
    assert logged(libraries, deployment.url("mlflow"), tmp_path, what) == expected(what, libraries)


@pytest.mark.parametrize("what", LIGHT)
def test_what_libraries_and_commands_log_in_the_notebook(
    notebook: Clone, libraries: Path, expected: Plain, what: str
) -> None:
    assert in_the_notebook(notebook, SCRIPT, own_name(), what) == expected(what, libraries)


@pytest.mark.parametrize("what", WITH_TORCH)
def test_what_libraries_with_torch_log(
    deployment: Clone, torch: Path, expected: Plain, tmp_path: Path, what: str
) -> None:
    assert logged(torch, deployment.url("mlflow"), tmp_path, what) == expected(what, torch)


def test_the_java_client(deployment: Clone, java: Path, current: Path, plain: str, tmp_path: Path) -> None:
    """It sends and gets files with the `mlflow` that is on PATH."""
    result = [
        inspection.output(
            "java",
            "-cp",
            f"{java}/*",
            str(JAVA / "JavaClient.java"),
            uri,
            own_name(),
            timeout=600,
            cwd=tmp_path,
            env=remote_clients.environment(current, uri, tmp_path),
        )
        for uri in (plain, deployment.url("mlflow"))
    ]
    assert result[1] == result[0] and "back hello" in result[0]
