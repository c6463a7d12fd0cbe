"""Ours against the opponent, in turns on the same machine with the same images; every figure is a ratio in one run.

    python -m benchmarks.bench [--rounds=3] [--only=NAME,NAME] [--json=FILE]

Prints a table (what, goal, ours, opponent, ratio, spread) and writes JSON. Needs a Docker engine, and the images of
`invoke build`. Timings never decide a test.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
PORTS = {"TRACKBED_MLFLOW_PORT": "27000", "TRACKBED_JUPYTER_PORT": "27001", "TRACKBED_S3_PORT": "27002",
         "TRACKBED_S3_CONSOLE_PORT": "27003"}
OPPONENT_MLFLOW, OPPONENT_STORE = "27100", "27102"
NAIVE, WEIGHED = "trackbed-bench/naive-mlflow:3.17.2", "trackbed-bench/naive-mlflow:drivers"
CLIENT_IMAGE = "trackbed/jupyter-mlflow:cpu"


@dataclass
class Measure:
    """One row: samples in ``unit``; ``better`` says whether the ratio ours/opponent should be small or large."""

    name: str
    goal: str
    unit: str
    ours: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    limit: float = 0.0
    better: str = "small"

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.other) if self.ours and self.other else 0.0

    @property
    def reached(self) -> bool:
        value = self.ratio if self.other else statistics.median(self.ours)
        return value <= self.limit if self.better == "small" else value >= self.limit

    @property
    def spread(self) -> str:
        """Largest distance from the median, in percent, of ours and of the opponent's samples."""
        def one(samples: list[float]) -> str:
            middle = statistics.median(samples)
            return f"{max(abs(s - middle) for s in samples) / middle * 100:.0f} %" if middle else "-"

        return " / ".join(one(samples) for samples in (self.ours, self.other) if samples)


def run(*argv: str, env: dict[str, str] | None = None, cwd: Path = ROOT, stdin: bytes = b"",
        timeout: float = 1800) -> str:
    """The stdout of a command that has to succeed."""
    done = subprocess.run(argv, env={**os.environ, **(env or {})}, cwd=cwd, input=stdin, capture_output=True,
                          timeout=timeout, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stderr.decode()[-3000:]}")
    return done.stdout.decode()


def timed(*argv: str, env: dict[str, str] | None = None, cwd: Path = ROOT) -> float:
    began = time.perf_counter()
    run(*argv, env=env, cwd=cwd)
    return time.perf_counter() - began


def log_run(url: str) -> None:
    """A first run over REST: made, a metric logged, finished."""
    def post(path: str, body: dict[str, object]) -> dict[str, dict[str, dict[str, str]]]:
        request = urllib.request.Request(f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return dict(json.loads(answer.read() or b"{}"))

    made = post("runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]["run_id"]
    post("runs/log-metric", {"run_id": made, "key": "loss", "value": 0.5, "timestamp": 1, "step": 1})
    post("runs/update", {"run_id": made, "status": "FINISHED", "end_time": 2})


class Ours:
    """The system of this clone, on an engine, in a state folder of its own."""

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine = engine
        self.url = f"http://127.0.0.1:{PORTS['TRACKBED_MLFLOW_PORT']}"
        self.project = f"bench-{engine}-{uuid.uuid4().hex[:4]}"
        self.env = {**PORTS, "TRACKBED_ENGINE": engine, "TRACKBED_PROJECT": self.project,
                    "TRACKBED_STATE_DIR": str(folder / "state")}
        if engine == "embedded":
            self.env["TRACKBED_OBJECT_STORE"] = "auto"

    def invoke(self, *words: str) -> float:
        return timed(sys.executable, "-m", "invoke", *words, env=self.env)

    def up(self) -> float:
        """`invoke up` and a first run."""
        began = time.perf_counter()
        self.invoke("up")
        log_run(self.url)
        return time.perf_counter() - began

    def down(self, data: bool = False) -> None:
        self.invoke("down", *(("--delete-data", "--yes") if data else ()))

    def memory(self) -> float:
        status = json.loads(run(sys.executable, "-m", "invoke", "status", "--format=json", env=self.env))
        return sum(part["memory"] for part in status["parts"] if part["part"] != "jupyter") / 2**20


class Opponent:
    """The compose file of `opponent/`."""

    def __init__(self, wheels: Path, images: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{OPPONENT_MLFLOW}"
        self.env = {**images, "MLFLOW_IMAGE": NAIVE, "WHEELS": str(wheels), "MLFLOW_PORT": OPPONENT_MLFLOW,
                    "STORE_PORT": OPPONENT_STORE}
        self.words = ("docker", "compose", "--env-file", os.devnull, "-p", "bench-opponent", "-f",
                      str(HERE / "opponent" / "compose.yaml"))

    def compose(self, *words: str) -> float:
        return timed(*self.words, *words, env=self.env)

    def up(self) -> float:
        began = time.perf_counter()
        self.compose("up", "-d", "--wait", "--wait-timeout", "300")
        log_run(self.url)
        return time.perf_counter() - began

    def down(self, data: bool = False) -> None:
        self.compose("down", *(("--volumes",) if data else ()))

    def memory(self) -> float:
        names = run(*self.words, "ps", "-q", env=self.env).split()
        return sum(container_memory(name) for name in names)


def container_memory(name: str) -> float:
    """MiB without the page cache, as `invoke status` counts."""
    text = run("docker", "exec", "-u", "0", name, "cat", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat")
    lines = text.splitlines()
    inactive = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    return (int(lines[0]) - inactive) / 2**20


def client(*words: str, network: str = "host", env: tuple[str, ...] = ()) -> dict[str, float]:
    """A measurement of client.py in the notebook's image."""
    flags = [word for pair in env for word in ("-e", pair)]
    out = run("docker", "run", "--rm", "-i", "--network", network, *flags, "--entrypoint", "python", CLIENT_IMAGE, "-",
              *words, stdin=(HERE / "client.py").read_bytes())
    return dict(json.loads(out.strip().splitlines()[-1]))


@contextmanager
def running(*systems: Ours | Opponent) -> Iterator[None]:
    for system in systems:
        system.up()
    try:
        yield
    finally:
        for system in systems:
            system.down(data=True)


def prepare(folder: Path) -> tuple[Path, dict[str, str]]:
    """The opponent's images and the mirror of its drivers."""
    settings = json.loads(run(sys.executable, "-c", (
        "import json; from helpers.settings import BY_NAME as b; "
        "print(json.dumps({'POSTGRES_IMAGE': b['POSTGRES_IMAGE'].default, "
        "'STORE_IMAGE': b['VERSITYGW_IMAGE'].default}))")))
    bundle = next((p for v in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE") if (p := os.environ.get(v))), "")
    secret = ["--secret", f"id=ca,src={bundle}"] if bundle else []
    network = ["--network", "host"] if os.environ.get("TRACKBED_BUILD_NETWORK") == "host" else []
    for name, drivers in ((NAIVE, ""), (WEIGHED, "psycopg2-binary boto3")):
        run("docker", "buildx", "build", "--load", "--tag", name, *secret, *network, "--build-arg",
            f"DRIVERS={drivers}", str(HERE / "opponent"))
    wheels = folder / "wheels"
    wheels.mkdir()
    # from the same image, for its Python
    run("docker", "run", "--rm", "--network", "host", "-v", f"{wheels}:/wheels",
        *(["-v", f"{bundle}:/ca:ro", "-e", "PIP_CERT=/ca"] if bundle else []), WEIGHED, "sh", "-c",
        "pip download -q -d /wheels psycopg2-binary boto3")
    wheels.chmod(0o755)
    return wheels, settings


def size(name: str) -> float:
    return int(run("docker", "image", "inspect", "--format", "{{.Size}}", name)) / 2**20


# the measures

def starts(ours: Ours, other: Opponent, embedded: Ours, rounds: int) -> list[Measure]:
    cold = Measure("cold `invoke up` to a first run logged", "<= 0.40", "s", limit=0.40)
    later = Measure("`invoke up` over existing data", "<= 0.35", "s", limit=0.35)
    noop = Measure("`invoke up` when all is up, against `docker compose up -d --wait`", "<= 0.8", "s", limit=0.8)
    memory = Measure("memory of all services, idle", "<= 0.45", "MiB", limit=0.45)
    for _ in range(rounds):
        for system, samples, again, idle in ((ours, cold.ours, later.ours, memory.ours),
                                             (other, cold.other, later.other, memory.other)):
            samples.append(system.up())
            time.sleep(5)
            idle.append(system.memory())
            if system is ours:
                noop.ours.append(ours.invoke("up"))
                bare = {k: v for k, v in os.environ.items() if not k.startswith("TRACKBED_")}
                noop.other.append(timed("env", "-i", *(f"{k}={v}" for k, v in bare.items()), "docker", "compose", "up",
                                        "-d", "--wait"))
            system.down()
            again.append(system.up())
            system.down(data=True)
    first = Measure("embedded: first `up`, warm package cache", "<= 45 s", "s", limit=45)
    second = Measure("embedded: later `up`", "<= 6 s", "s", limit=6)
    for _ in range(rounds):
        first.ours.append(embedded.invoke("up"))
        embedded.down()
        second.ours.append(embedded.invoke("up"))
        embedded.down(data=True)
    return [cold, later, noop, memory, first, second]


def listing(rounds: int) -> list[Measure]:
    measure = Measure("`invoke --list`, against an empty tasks.py", "<= 1.3", "s", limit=1.3)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tasks.py").write_text("from invoke import task\n\n\n@task\ndef nothing(c):\n    pass\n")
        for _ in range(rounds * 3):
            measure.ours.append(timed(sys.executable, "-m", "invoke", "--list"))
            measure.other.append(timed(sys.executable, "-m", "invoke", "--list", cwd=Path(folder)))
    return [measure]


def logging(ours: Ours, other: Opponent, rounds: int) -> list[Measure]:
    one = Measure("client log_metric p50, one client", "<= 0.15", "ms", limit=0.15)
    many = {kind: Measure(f"32 clients, {kind}", ">= 2.5", "requests/s", limit=2.5, better="large")
            for kind in ("log-metric", "log-batch", "search")}
    with running(ours, other):
        for _ in range(rounds):
            for system, mine in ((ours, True), (other, False)):
                p50 = client("latency", system.url, "200")["p50"] * 1000
                (one.ours if mine else one.other).append(p50)
                for kind, measure in many.items():
                    rate = client("load", system.url, "8", kind)["per_second"]
                    (measure.ours if mine else measure.other).append(rate)
    return [one, *many.values()]


def artifacts(ours: Ours, rounds: int, mib: int) -> list[Measure]:
    up = Measure(f"{mib} MiB artifact up, against boto3", ">= 0.8", "MiB/s", limit=0.8, better="large")
    down = Measure(f"{mib} MiB artifact down, against boto3", ">= 0.8", "MiB/s", limit=0.8, better="large")
    with running(ours):
        found = json.loads(run(sys.executable, "-m", "invoke", "credentials", "--format=json", env=ours.env))
        keys = (f"AWS_ACCESS_KEY_ID={found['S3_ACCESS_KEY']}", f"AWS_SECRET_ACCESS_KEY={found['S3_SECRET_KEY']}",
                "AWS_REQUEST_CHECKSUM_CALCULATION=when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required")
        network = f"{ours.project}_frontend"
        for _ in range(rounds):
            mine = client("artifact", "http://mlflow:8000", str(mib), network=network,
                          env=("MLFLOW_HTTP_REQUEST_TIMEOUT=600",))
            straight = client("boto", "http://store:9000", "mlflow-artifacts", str(mib), network=network, env=keys)
            up.ours.append(mine["up"])
            up.other.append(straight["up"])
            down.ours.append(mine["down"])
            down.other.append(straight["down"])
    return [up, down]


def builds() -> list[Measure]:
    nothing = Measure("image build, nothing changed, each", "<= 1 s", "s", limit=1)
    weight = Measure("size of the mlflow image, against the naive one", "<= 0.7", "MiB", limit=0.7)
    run(sys.executable, "-m", "invoke", "build")
    for part in ("mlflow", "jupyter"):
        nothing.ours.append(timed(sys.executable, "-m", "invoke", "build", part))
    weight.ours.append(size("trackbed/mlflow:3.17.2"))
    weight.other.append(size(WEIGHED))
    return [nothing, weight]


def table(found: list[Measure]) -> str:
    lines = ["| what | goal | ours | opponent | ratio | spread | |", "|---|---|---|---|---|---|---|"]
    for m in found:
        ours = f"{statistics.median(m.ours):.4g} {m.unit}"
        other = f"{statistics.median(m.other):.4g} {m.unit}" if m.other else "-"
        ratio = f"{m.ratio:.2f}" if m.other else "-"
        lines.append(f"| {m.name} | {m.goal} | {ours} | {other} | {ratio} | {m.spread} | "
                     f"{'reached' if m.reached else 'missed'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--only", default="starts,listing,logging,artifacts,builds")
    parser.add_argument("--json", default=str(ROOT / ".nox" / "bench.json"))
    told = parser.parse_args()
    wanted = told.only.split(",")
    folder = Path(tempfile.mkdtemp(prefix="trackbed-bench-"))
    folder.chmod(0o755)
    found: list[Measure] = []
    try:
        run(sys.executable, "-m", "invoke", "build")
        wheels, images = prepare(folder)
        ours, other, embedded = Ours("docker", folder), Opponent(wheels, images), Ours("embedded", folder)
        steps: dict[str, Callable[[], list[Measure]]] = {
            "starts": lambda: starts(ours, other, embedded, told.rounds),
            "listing": lambda: listing(told.rounds),
            "logging": lambda: logging(ours, other, told.rounds),
            "artifacts": lambda: artifacts(ours, told.rounds, told.mib),
            "builds": builds,
        }
        for name in wanted:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            found += steps[name]()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
               "docker": run("docker", "version", "--format", "{{.Server.Version}}").strip(),
               "date": time.strftime("%Y-%m-%d"), "rounds": told.rounds}
    Path(told.json).parent.mkdir(exist_ok=True)
    Path(told.json).write_text(json.dumps({"machine": machine, "measures": [asdict(m) for m in found]}, indent=1))
    print(f"{machine}\n\n{table(found)}")


if __name__ == "__main__":
    main()
