"""Real MLflow clients outside the project: their Python, what they do, and a plain server beside ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.claims import free_ports
from tests.conftest import PATIENCE, ROOT
from tests.integration import inspection

SCRIPT = ROOT / "tests" / "integration" / "client_session.py"
LOCK = ROOT / "docker" / "mlflow" / "requirements.txt"
LARGE = 12 << 20
# MLflow's own switches: a file of 12 MiB takes the way of one of 1 GB
SMALLER: dict[str, Any] = {
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": str(6 << 20),
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": str(5 << 20),
    "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": str(5 << 20),
}


def make_python(folder: Path, *packages: str, version: str = "", timeout: float = 600) -> Path:
    """A virtual environment with these packages; with what the server has, where none are named."""
    python = folder / "bin" / "python"
    expected = ["install", *packages] if packages else ["sync", "--require-hashes", str(LOCK)]
    for argv in (
        ["uv", "venv", "--quiet", *(["--python", version] if version else []), str(folder)],
        ["uv", "pip", expected[0], "--quiet", "--python", str(python), *expected[1:]],
    ):
        done = inspection.run(*argv, timeout=timeout)
        assert done.returncode == 0, done.stderr
    return python


def environment(python: Path, uri: str, folder: Path, **more: str) -> dict[str, str]:
    """Of a shell in that Python's environment that knows the tracking server's address, and nothing else of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKBED_", "MLFLOW_", "AWS_"))}
    return {
        **kept,
        "HOME": str(folder),
        "MLFLOW_TRACKING_URI": uri,
        "PYTHONWARNINGS": "ignore",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "GIT_PYTHON_REFRESH": "quiet",
        "NO_PROXY": "*",
        **more,
    }


def logged(
    python: Path,
    uri: str,
    folder: Path,
    name: str,
    small: int = 20,
    large: int = LARGE,
    timeout: float = PATIENCE,
    **more: str,
) -> dict[str, Any]:
    """What a client reads back of what it logged there (client_session.py)."""
    folder.mkdir(parents=True, exist_ok=True)
    done = inspection.run(
        str(python),
        str(SCRIPT),
        name,
        str(small),
        str(large),
        timeout=timeout,
        cwd=folder,
        env=environment(python, uri, folder, **more),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def program(argv: list[str], folder: Path, ready: str, seconds: float = PATIENCE, **options: Any) -> Iterator[None]:
    """A server of the test's own, until it answers at that address; ended with all that it started."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True, **options
        )
    try:
        deadline = time.monotonic() + seconds
        while inspection.ask(ready, timeout=5)[0] != 200:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)


@contextmanager
def plain_server(python: Path, folder: Path) -> Iterator[str]:
    """`mlflow server` as its own documentation starts it: SQLite and a folder."""
    port = free_ports(1)[0]
    uri = f"http://127.0.0.1:{port}"
    argv = [
        str(python),
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{folder}/plain.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    settings = environment(
        python, uri, folder, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true"
    )
    settings.pop("MLFLOW_TRACKING_URI")
    with program(argv, folder, f"{uri}/health", env=settings):
        yield uri
