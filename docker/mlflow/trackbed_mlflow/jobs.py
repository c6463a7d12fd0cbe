"""MLflow's background jobs: judges, evaluations from the page, automatic scoring. Off, or beside the server.

MLflow's executor engine needs two processes that stay (the runner, and a scheduler that looks each minute whether
traces are to be scored) and one for each job that runs; its older engine needs eight. They read jobs from the
database, call models through this server's own AI gateway, and end with the server.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NoReturn

from trackbed_mlflow import PROGRAM
from trackbed_mlflow.errors import MISCONFIGURED, STOPPED, Stop, say

SWITCH = "TRACKBED_JOBS"  # off or on
TOKEN = "TRACKBED_JOB_TOKEN"  # made at each start; in this server's memory and that of its jobs
SERVER, STARTED, QUEUE = "MLFLOW_SERVER_PID", "_MLFLOW_SERVER_UP_TIME", "_MLFLOW_HUEY_STORAGE_PATH"
ACCOUNT = "jobs"  # the user name beside the token: MLflow's gateway client knows no other way to log in
MODEL_CALL = ("POST", "/gateway/mlflow/v1/chat/completions")  # what a judge asks the server for
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
# What a job has no use for: the server decrypts keys of models itself, artifacts pass through it.
WITHHELD = (
    "MLFLOW_CRYPTO_KEK_PASSPHRASE",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "TRACKBED_ACCESS_TOKEN_FILE",
    "TRACKBED_GATEWAY_KEY_FILE",
    "TRACKBED_STORE_SYNC_TOKEN_FILE",
    "TRACKBED_SECRETS_FOLDER",
    "TRACKBED_START_PAGE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    TOKEN,
)
# Providers that send the key of the endpoint to an address that MLflow checks. Those of clouds are left out: they use
# the machine's own identity where an endpoint has no key, and ask addresses that come with the key.
PROVIDERS = ("openai", "azure", "anthropic", "mistral", "gemini", "groq", "deepseek", "xai", "openrouter", "togetherai")
LOCAL_PROVIDERS = ("ollama",)  # its address is this machine's
MODELS = "TRACKBED_JOBS_MODELS"  # public or any: which addresses MLflow accepts for a model
BOUNDS = {  # of what runs at once: MLflow's own are ten of each kind, of 250 MB each
    "MLFLOW_SERVER_JUDGE_INVOKE_MAX_WORKERS": "2",
    "MLFLOW_SERVER_ONLINE_SCORING_MAX_WORKERS": "1",
    "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "2",
    "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "3",
}
FOLDER = "jobs-"  # of the scheduler's queue, in the server's temporary folder
PAUSE, LONGEST_PAUSE, STOP_SECONDS = 1.0, 60.0, 5.0
LOOK = 2.0  # seconds between two looks whether the server is there
RESTART_DELAY = 30.0  # until the runner's watcher starts again: longer than a server takes to stop, which ends it too


def enabled(environment: Mapping[str, str]) -> bool:
    value = environment.get(SWITCH) or "off"
    if value not in ("off", "on"):
        raise Stop(MISCONFIGURED, f"{SWITCH}={value}: off or on is expected")
    return value == "on"


def prepare(environment: MutableMapping[str, str]) -> None:
    """Decide it for MLflow, whatever the environment says; scorers that carry code stay off."""
    on = enabled(environment)
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "true" if on else "false"
    environment["MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS"] = "false"
    if on:
        environment["MLFLOW_SERVER_JOB_EXECUTION_ENGINE"] = "executor"
        environment[TOKEN] = secrets.token_urlsafe(32)
        anywhere = environment.get(MODELS) == "any"
        environment["MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS"] = "true" if anywhere else "false"
        environment["MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES"] = "http,https" if anywhere else "https"
        environment["MLFLOW_GATEWAY_ALLOWED_PROVIDERS"] = ",".join(PROVIDERS + (LOCAL_PROVIDERS if anywhere else ()))
        for source in ("ENV", "FILE"):  # a key is what it is, and no name of a variable or a file of the server
            environment[f"MLFLOW_GATEWAY_RESOLVE_API_KEY_FROM_{source}"] = "false"
    else:
        environment.pop(TOKEN, None)


def guard_models(gateway: Any) -> None:
    """Every address of a model is checked when it is asked; MLflow does so where an endpoint names one. ``gateway``:
    MLflow's module."""

    def protect(*_: object, **__: object) -> None:
        gateway.upstream_ssrf_protection.set(True)

    if not hasattr(gateway, "upstream_ssrf_protection"):
        raise AttributeError("MLflow's AI gateway checks addresses in another way")
    gateway._enable_upstream_ssrf_protection = protect


def may(method: str, path: str) -> bool:
    """What the token of jobs opens: the model's call, and reading artifacts."""
    return (method, path) == MODEL_CALL or (method in ("GET", "HEAD") and path.startswith(ARTIFACTS))


def password(encoded: bytes) -> bytes:
    """That of HTTP's Basic, from what follows the word; empty where it is none."""
    try:
        return b64decode(encoded, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def is_job(headers: list[tuple[bytes, bytes]], token: str) -> bool:
    """Whether a request comes from one of this server's own jobs."""
    for name, value in headers:
        kind, _, rest = value.strip().partition(b" ")
        if token and name == b"authorization" and kind.lower() == b"basic":
            return hmac.compare_digest(password(rest.strip()), token.encode())
    return False


def job_environment(environment: Mapping[str, str], server: int) -> dict[str, str]:
    """What the runner and its jobs get to know."""
    host = environment.get("TRACKBED_HOST") or "0.0.0.0"
    port = environment.get("TRACKBED_PORT") or "8000"
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    result = {name: value for name, value in environment.items() if name not in WITHHELD}
    return (
        result
        | BOUNDS
        | {
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "MLFLOW_TRACKING_URI": address,
            "MLFLOW_GATEWAY_URI": address,
            "MLFLOW_TRACKING_USERNAME": ACCOUNT,
            "MLFLOW_TRACKING_PASSWORD": environment[TOKEN],
            SERVER: str(server),
        }
    )


def confine(folder: Path) -> str:
    """Write what every Python of the jobs loads first; gives the folder, for PYTHONPATH."""
    site = folder / "site"
    site.mkdir()
    modules = str(Path(PROGRAM).parent)
    (site / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({modules!r})\n"
        "from trackbed_mlflow import job_guards\njob_guards.install_or_end()\n",
        "utf-8",
    )
    return str(site)


def start(environment: MutableMapping[str, str]) -> None:
    """Start what watches the runner, from the server's first process; again where it has ended."""
    if queue := environment.pop(QUEUE, ""):
        shutil.rmtree(queue, ignore_errors=True)  # MLflow's own place for it: nobody would remove it
    if enabled(environment):
        threading.Thread(target=_watched, args=(job_environment(environment, os.getpid()),), daemon=True).start()


def _watched(environment: Mapping[str, str]) -> None:
    """In a thread that lives as long as the server: the kernel takes its end for the parent's."""
    command = [sys.executable, PROGRAM, "jobs"]
    while True:
        try:
            # its exit code may be lost: gunicorn waits for every child
            subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment).wait()
        except OSError as error:
            say(f"what keeps MLflow's job runner running was not started: {error}")
        time.sleep(RESTART_DELAY)  # no wait: a pause before each new start, as long as the server lives
        say("what keeps MLflow's job runner running had ended: it is started again")


def end_with_parent() -> None:
    """SIGTERM for this process when the one that started it ends, however it ends. Only Linux has it."""
    import ctypes

    death_signal = 1  # PR_SET_PDEATHSIG in linux/prctl.h
    if (prctl := getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)) is not None:
        prctl(death_signal, signal.SIGTERM)


def _stopped(number: int, frame: object) -> NoReturn:
    """Only once: the server's threads end one after the other, and each end is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(STOPPED)


def _ended(runner: subprocess.Popen[bytes], server: int) -> int:
    """The runner's exit code, once it has one. Raises SystemExit when the server is gone."""
    while True:
        try:
            return runner.wait(LOOK)
        except subprocess.TimeoutExpired:
            _look(server)


def _look(server: int) -> None:
    if os.getppid() != server:
        raise SystemExit(STOPPED)


def run(environment: Mapping[str, str]) -> NoReturn:
    """Keep MLflow's runner running until the server ends."""
    signal.signal(signal.SIGTERM, _stopped)
    end_with_parent()
    server = int(environment.get(SERVER) or 0)
    _look(server)  # it may have ended before this could see it
    place = Path(environment.get("TRACKBED_OWN_TMP") or tempfile.gettempdir())
    for old in place.glob(f"{FOLDER}*"):
        if not old.is_symlink() and old.lstat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)  # of a server that was killed; jobs are in the database
    queue = tempfile.mkdtemp(prefix=FOLDER, dir=place)
    leading = os.pathsep.join(filter(None, (confine(Path(queue)), environment.get("PYTHONPATH", ""))))
    runner: subprocess.Popen[bytes] | None = None
    pause = PAUSE
    try:
        while True:
            began = time.monotonic()
            runner = subprocess.Popen(
                [sys.executable, "-m", "mlflow.server.jobs._executor_runner"],
                stdin=subprocess.DEVNULL,
                # it ends with this process, so that there are never two
                env={
                    **environment,
                    "PYTHONPATH": leading,
                    SERVER: str(os.getpid()),
                    QUEUE: queue,
                    STARTED: str(int(time.time() * 1000)),
                },
            )
            code = _ended(runner, server)
            pause = PAUSE if time.monotonic() - began > LONGEST_PAUSE else min(pause * 2, LONGEST_PAUSE)
            say(f"MLflow's job runner ended ({code}); it starts again in {pause:.0f} s")
            time.sleep(pause)  # no wait: a pause before each new start, as long as the server lives
            _look(server)
    finally:  # SIGTERM comes as SystemExit
        if runner is not None and runner.poll() is None:
            runner.terminate()
            try:
                runner.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                runner.kill()
        shutil.rmtree(queue, ignore_errors=True)
