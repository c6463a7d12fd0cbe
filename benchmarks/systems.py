"""What is measured: ours on either engine, the baseline, and the client; and one row of the table."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from helpers import site_network
from helpers.clone import ROOT
from helpers.engines.docker import images
from helpers.engines.docker.client import DockerApi
from helpers.engines.notebook_image import REPOSITORY
from helpers.project import state
from helpers.settings import BY_NAME, Settings

HERE = Path(__file__).resolve().parent
BASELINE_MLFLOW, BASELINE_STORE = "27100", "27102"
NAIVE, WEIGHED = "trackbed-bench/naive-mlflow:3.17.2", "trackbed-bench/naive-mlflow:drivers"
READY_SECONDS = 300.0


def setting(name: str) -> str:
    """A setting's value as the process environment has it, else its default."""
    return os.environ.get(f"TRACKBED_{name}") or str(BY_NAME[name].default)


def service_image(key: str) -> str:
    """The image of postgres or versitygw by the name that this machine has, which `invoke up` uses too: one that was
    built here, or loaded, has no digest of a registry."""
    return images.local(
        DockerApi(), images.reference(key, Settings.load({}, os.environ, HERE / "no.env", state.remembered))
    )


@dataclass
class Measure:
    """One row: samples in ``unit``; ``better`` says whether figures should be small or large.

    ``limit`` bounds the ratio ours/baseline; without a baseline it bounds our own figure.
    """

    name: str
    goal: str
    unit: str
    limit: float
    better: str = "small"
    most: float = math.inf  # bounds our own figure as well
    ours: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    embedded: list[float] = field(default_factory=list)
    note: str = ""
    date: str = ""

    @property
    def mine(self) -> list[float]:
        return self.ours or self.embedded

    @property
    def ratio(self) -> float:
        return statistics.median(self.mine) / statistics.median(self.other) if self.mine and any(self.other) else 0.0

    @property
    def reached(self) -> bool:
        value = self.ratio if self.other else statistics.median(self.mine)
        if self.mine and statistics.median(self.mine) > self.most:
            return False
        return value <= self.limit if self.better == "small" else value >= self.limit

    @property
    def spread(self) -> str:
        """Largest distance from the median in percent: ours / baseline's / embedded."""

        def one(samples: list[float]) -> str:
            middle = statistics.median(samples)
            return f"{max(abs(s - middle) for s in samples) / middle * 100:.0f} %" if middle else "-"

        return " / ".join(one(samples) if samples else "-" for samples in (self.ours, self.other, self.embedded))

    def summary(self, samples: list[float]) -> str:
        return f"{statistics.median(samples):.4g} {self.unit}" if samples else "-"


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def run(
    *argv: str, env: dict[str, str] | None = None, cwd: Path = ROOT, stdin: bytes = b"", timeout: float = 1800
) -> str:
    """The stdout of a command that has to succeed."""
    done = subprocess.run(
        argv, env={**os.environ, **(env or {})}, cwd=cwd, input=stdin, capture_output=True, timeout=timeout, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stderr.decode()[-3000:]}")
    return done.stdout.decode()


def timed(*argv: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> float:
    began = time.perf_counter()
    run(*argv, env=env, cwd=cwd)
    return time.perf_counter() - began


def log_run(url: str) -> None:
    """A first run over REST as soon as the server takes it: made, a metric logged, finished."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def post(path: str, body: dict[str, object]) -> dict[str, dict[str, dict[str, str]]]:
        request = urllib.request.Request(
            f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with opener.open(request, timeout=60) as answer:
            return dict(json.loads(answer.read() or b"{}"))

    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            created = post("runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]["run_id"]
            post("runs/log-metric", {"run_id": created, "key": "loss", "value": 0.5, "timestamp": 1, "step": 1})
            post("runs/update", {"run_id": created, "status": "FINISHED", "end_time": 2})
            return
        except OSError:  # nothing listens yet, it answers 5xx, or it ends the connection
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def clone(folder: Path) -> Path:
    """A copy of what `invoke` runs, so that the .env of this clone neither counts nor changes."""
    target = folder / "clone"
    if not target.exists():
        target.mkdir()
        for path in ROOT.glob("*.py"):
            shutil.copy(path, target)
        for name in ("helpers", "docker"):
            shutil.copytree(ROOT / name, target / name)
        run(sys.executable, "-m", "compileall", "-q", str(target))
    return target


class Ours:
    """The system of this clone, on an engine ("docker", "embedded"), with a state folder and ports of its own."""

    def __init__(self, engine: str, folder: Path, **more: str) -> None:
        self.engine, self.clone = engine, clone(folder)
        first = 27000 if engine == "docker" else 27010
        ports = {
            f"TRACKBED_{name}_PORT": str(first + n) for n, name in enumerate(("MLFLOW", "JUPYTER", "S3", "S3_CONSOLE"))
        }
        self.url = f"http://127.0.0.1:{first}"
        self.project = f"bench-{engine}-{uuid.uuid4().hex[:4]}"
        self.env = {
            **ports,
            "TRACKBED_ENGINE": engine,
            "TRACKBED_PROJECT": self.project,
            "TRACKBED_STATE_DIR": str(folder / "state"),
            "TRACKBED_LOCAL_ACCESS": "open",
            **more,
        }  # as the baseline, which has no token
        if engine == "embedded":
            self.env["TRACKBED_OBJECT_STORE"] = "auto"

    def invoke(self, *words: str) -> float:
        """Seconds of one `invoke WORDS`."""
        return timed(sys.executable, "-m", "invoke", *words, env=self.env, cwd=self.clone)

    def ask(self, *words: str) -> dict[str, list[dict[str, int]]]:
        """What `invoke WORDS --format=json` prints."""
        return dict(
            json.loads(run(sys.executable, "-m", "invoke", *words, "--format=json", env=self.env, cwd=self.clone))
        )

    def up(self) -> float:
        """Seconds of `invoke up` and a first run."""
        began = time.perf_counter()
        self.invoke("up")
        log_run(self.url)
        return time.perf_counter() - began

    def down(self, data: bool = False) -> None:
        if data:  # the account that owns a workspace would stay with it
            shutil.rmtree(Path(self.env["TRACKBED_STATE_DIR"], self.project, "workspace"), ignore_errors=True)
        self.invoke("down", *(("--delete-data", "--yes") if data else ()))

    def notebook_environment(self) -> dict[str, str]:
        """What the notebook's container was told of MLflow and of the store, which decides the way of an artifact."""
        listed = run("docker", "inspect", "--format", "{{json .Config.Env}}", f"{self.project}-jupyter")
        variables = dict(entry.split("=", 1) for entry in json.loads(listed))
        return {name: value for name, value in variables.items() if name.startswith(("MLFLOW_", "TRACKBED_"))}

    def container(self, service: str) -> str:
        return f"{self.project}-{service}-1"

    def memory(self) -> float:
        """MiB of the services, without the notebook, because the baseline has none."""
        services = self.ask("status")["services"]
        return sum(service["memory"] for service in services if str(service["service"]) != "jupyter") / 2**20

    def seconds(self) -> float:
        """Processor seconds of all services so far, the notebook too."""
        if self.engine == "docker":
            return container_seconds(run("docker", "ps", "-q", "--filter", f"name=^{self.project}-").split())
        return folder_seconds(str(Path(self.env["TRACKBED_STATE_DIR"], self.project)))


def family_seconds(tops: Iterable[psutil.Process]) -> float:
    """Processor seconds so far of these processes, all below them, and those that have ended and were waited for."""
    family = {process for top in tops for process in (top, *top.children(recursive=True))}
    return sum(sum(process.cpu_times()[:4]) for process in family)


def folder_seconds(folder: str) -> float:
    """Processor seconds so far of the processes that have this folder among their words, and of their children."""
    return family_seconds(p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or ()))


def container_seconds(names: list[str]) -> float:
    """Processor seconds of these containers so far, and of what the engine started for them: health checks, and the
    runtime that starts each, are children of the shim. The engine's own figure of a container has the checks too, so
    both together would count them twice."""
    api = DockerApi()
    pids = (int(api.client.api.inspect_container(name)["State"]["Pid"]) for name in names)
    shims = (psutil.Process(pid).parent() for pid in pids if pid)  # 0: a container that has ended
    return family_seconds(shim for shim in shims if shim)


def engine_seconds() -> float:
    """Processor seconds of dockerd and its containerd so far, whoever they worked for."""
    daemons = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "dockerd"]
    family = [*daemons, *(child for daemon in daemons for child in daemon.children() if child.name() == "containerd")]
    return sum(sum(process.cpu_times()[:4]) for process in family)


class Baseline:
    """The compose file of `baseline/`, with the same images of PostgreSQL and the store."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{BASELINE_MLFLOW}"
        self.folder = folder
        self.words = (
            "docker",
            "compose",
            "--env-file",
            os.devnull,
            "-p",
            f"bench-baseline-{uuid.uuid4().hex[:4]}",
            "-f",
            str(HERE / "baseline" / "compose.yaml"),
        )

    @cached_property
    def env(self) -> dict[str, str]:
        """Asked for when it starts: our own `up`, which is first, has pulled or built the store's image."""
        return {
            "POSTGRES_IMAGE": service_image("postgres"),
            "STORE_IMAGE": service_image("versitygw"),
            "MLFLOW_IMAGE": NAIVE,
            "WHEELS": str(wheels(self.folder)),
            "MLFLOW_PORT": BASELINE_MLFLOW,
            "STORE_PORT": BASELINE_STORE,
        }

    def prepare(self) -> None:
        """Make its images and its wheels, so that no measure waits for them."""
        wheels(self.folder)

    def compose(self, *words: str) -> float:
        return timed(*self.words, *words, env=self.env)

    def up(self) -> float:
        """Seconds of `docker compose up -d` until a first run is logged; its own health checks would tell later."""
        began = time.perf_counter()
        self.compose("up", "-d")
        log_run(self.url)
        return time.perf_counter() - began

    def healthy(self) -> None:
        """Returns when its own health checks say so: it is never measured while it is ill."""
        self.compose("up", "-d", "--wait", "--wait-timeout", "300")

    def down(self, data: bool = False) -> None:
        self.compose("down", *(("--volumes",) if data else ()))

    def container(self, service: str) -> str:
        return run(*self.words, "ps", "-q", service, env=self.env).strip()

    def memory(self) -> float:
        """MiB, by the same figure of the engine as `invoke status`."""
        api = DockerApi()
        return sum(api.memory(name) for name in run(*self.words, "ps", "-q", env=self.env).split()) / 2**20

    def seconds(self) -> float:
        """Processor seconds of all services so far."""
        return container_seconds(run(*self.words, "ps", "-q", env=self.env).split())


def ca_bundle() -> str:
    """The first bundle of the site's certificates, "" for none."""
    return next(iter(site_network.bundles(os.environ, {})[0]), "")


def baseline_images() -> None:
    """Build the naive image (with and without drivers) on the base of ours."""
    secret = ["--secret", f"id=ca,src={bundle}"] if (bundle := ca_bundle()) else []
    network = ["--network", setting("BUILD_NETWORK")]
    for name, drivers in ((NAIVE, ""), (WEIGHED, "psycopg2-binary boto3")):
        run(
            "docker",
            "buildx",
            "build",
            "--load",
            "--provenance=false",
            "--tag",
            name,
            *secret,
            *network,
            "--build-arg",
            f"DRIVERS={drivers}",
            str(HERE / "baseline"),
        )


def wheels(folder: Path) -> Path:
    """The mirror of the baseline's drivers: as near as one can be, so that no network is measured."""
    result, bundle = folder / "wheels", ca_bundle()
    if not result.exists():
        baseline_images()
        result.mkdir()
        run(
            "docker",
            "run",
            "--rm",
            "--network",
            "host",
            "-v",
            f"{result}:/wheels",
            *(["-v", f"{bundle}:/ca:ro", "-e", "PIP_CERT=/ca"] if bundle else []),
            WEIGHED,
            "sh",
            "-c",
            "pip download -q -d /wheels psycopg2-binary boto3",
        )
        result.chmod(0o755)
    return result


def client(
    *words: str,
    network: str = "host",
    env: dict[str, str] | None = None,
    image: str = "",
    program: str = "client.py",
) -> dict[str, Any]:
    """A measurement of client.py in the notebook's image, the same for every side; ``env`` stays out of argv."""
    flags = [word for name in env or {} for word in ("-e", name)]
    image = image or setting("JUPYTER_IMAGE") or f"{REPOSITORY}:cpu"
    out = run(
        "docker",
        "run",
        "--rm",
        "-i",
        "--network",
        network,
        *flags,
        "--entrypoint",
        "python",
        image,
        "-",
        *words,
        stdin=(HERE / program).read_bytes(),
        env=env,
    )
    return dict(json.loads(out.strip().splitlines()[-1]))


@contextmanager
def removed(*systems: Ours | Baseline) -> Iterator[None]:
    """Takes the systems down with their data at the end, whatever happened."""
    try:
        yield
    finally:
        for system in systems:
            try:
                system.down(data=True)
            except (SystemExit, OSError, subprocess.SubprocessError) as error:
                say(f"could not be taken down: {error}")


@contextmanager
def running(*systems: Ours | Baseline) -> Iterator[None]:
    """The systems up and well, gone afterwards."""
    with removed(*systems):
        for system in systems:
            system.up()
            if isinstance(system, Baseline):
                system.healthy()
        yield
