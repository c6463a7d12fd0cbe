"""Ours against the baseline, in turns on the same machine with the same images; every figure is a ratio in one run.

    python -m benchmarks.bench [--full] [--rounds=N] [--only=NAME,NAME] [--json=FILE]

Prints one table (what, goal, ours, baseline, ratio, spread, embedded) and writes JSON. A run with --only replaces its
own rows in that file and keeps the others. Profiles of a further round go into .nox/bench. Needs a Docker engine, and
makes the images that are missing.
Timings never decide a test.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from benchmarks import disk, profiles
from benchmarks.systems import (
    WEIGHED,
    Baseline,
    Measure,
    Ours,
    client,
    engine_seconds,
    removed,
    run,
    running,
    say,
    service_image,
    setting,
    timed,
)
from helpers.clone import ROOT
from helpers.uv_settings import uv_settings

IDLE_SECONDS = 5
SETTLED_SECONDS, WATCHED_SECONDS = 45, 180  # the longest health check comes every 60 s
PATIENCE = ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE")
PROFILES = ROOT / ".nox" / "bench"  # of ours; the other benchmarks have folders of their own beside it
CHANGED = "uvloop"  # the requirement of which another release is built


class Bench:
    """One run: the systems are made when the first measure wants them."""

    def __init__(self, folder: Path, rounds: int, full: bool) -> None:
        self.folder, self.rounds, self.full = folder, rounds, full

    @cached_property
    def ours(self) -> Ours:
        system = Ours("docker", self.folder)
        system.invoke("build")
        return system

    @cached_property
    def embedded(self) -> Ours:
        return Ours("embedded", self.folder)

    @cached_property
    def baseline(self) -> Baseline:
        system = Baseline(self.folder)
        system.prepare()
        return system

    # the measures

    def starts(self) -> list[Measure]:
        cold = Measure("cold `invoke up` to a first run logged", "<= 0.25", "s", 0.25)
        later = Measure("`invoke up` over existing data, to a first run logged", "<= 0.35", "s", 0.35)
        noop = Measure(
            "`invoke up` when all is up, against `docker compose up -d --wait`", "<= 0.8, 0.35 s", "s", 0.8, most=0.35
        )
        memory = Measure("memory of all services, idle", "<= 0.45", "MiB", 0.45)
        ours, other = self.ours, self.baseline
        bare = {k: v for k, v in os.environ.items() if not k.startswith("TRACKBED_")}
        with removed(ours, other):
            for _ in range(self.rounds):
                for system in (ours, other):
                    mine = system is ours
                    (cold.ours if mine else cold.other).append(system.up())
                    if isinstance(system, Baseline):
                        system.healthy()
                    time.sleep(IDLE_SECONDS)
                    (memory.ours if mine else memory.other).append(system.memory())
                    if isinstance(system, Ours):
                        noop.ours.append(system.invoke("up"))
                        noop.other.append(
                            timed(
                                "env",
                                "-i",
                                *(f"{k}={v}" for k, v in bare.items()),
                                "docker",
                                "compose",
                                "up",
                                "-d",
                                "--wait",
                                cwd=system.clone,
                            )
                        )
                    system.down()
                    (later.ours if mine else later.other).append(system.up())
                    system.down(data=True)
                say(
                    f"cold {cold.ours[-1]:.1f} / {cold.other[-1]:.1f} s, later {later.ours[-1]:.1f} / "
                    f"{later.other[-1]:.1f} s, memory {memory.ours[-1]:.0f} / {memory.other[-1]:.0f} MiB"
                )
            profiles.starts(ours, PROFILES)
        return [cold, later, noop, memory]

    def embedded_starts(self) -> list[Measure]:
        first = Measure("embedded: first `invoke up`, warm package cache", "<= 45 s", "s", 45)
        later = Measure("embedded: `invoke up` over existing data", "<= 2 s", "s", 2)
        noop = Measure("embedded: `invoke up` when all is up", "-", "s", float("inf"))
        memory = Measure("embedded: memory of all services, idle", "-", "MiB", float("inf"))
        system = self.embedded
        with removed(system):
            system.up()  # fills the package cache where it is empty
            system.down(data=True)
            for _ in range(self.rounds):
                first.embedded.append(system.invoke("up"))
                time.sleep(IDLE_SECONDS)
                memory.embedded.append(system.memory())
                noop.embedded.append(system.invoke("up"))
                system.down()
                later.embedded.append(system.invoke("up"))
                system.down(data=True)
                say(f"embedded first {first.embedded[-1]:.1f} s, later {later.embedded[-1]:.1f} s")
            profiles.starts(system, PROFILES)
        return [first, later, noop, memory]

    def idle(self) -> list[Measure]:
        """Nobody works with either system; dockerd's own share is right only where it does nothing else."""
        limit = float("inf")
        services = Measure("processor time, idle, of one core: the services and their health checks", "-", "%", limit)
        whole = Measure("processor time, idle, of one core: the same with dockerd and containerd", "<= 1.5 %", "%", 1.5)
        ours, other, embedded = self.ours, self.baseline, self.embedded
        for system in (ours, other, embedded):
            with running(system):
                time.sleep(SETTLED_SECONDS)
                for _ in range(self.rounds):
                    began, mine, engine = time.monotonic(), system.seconds(), engine_seconds()
                    time.sleep(WATCHED_SECONDS)
                    lasted = time.monotonic() - began
                    share = 100 * (system.seconds() - mine) / lasted
                    total = share + 100 * (engine_seconds() - engine) / lasted
                    say(f"idle {share:.2f} %, with the engine {total:.2f} %")
                    if system is embedded:
                        services.embedded.append(share)
                    elif system is ours:
                        services.ours.append(share)
                        whole.ours.append(total)
                    else:
                        services.other.append(share)
        return [services, whole]

    def disk(self) -> list[Measure]:
        return [disk.measure(self.folder)]

    def listing(self) -> list[Measure]:
        measure = Measure("`invoke --list`, against an empty tasks.py", "<= 1.3", "s", 1.3)
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        (empty / "tasks.py").write_text("from invoke import task\n\n\n@task\ndef nothing(c):\n    pass\n")
        for _ in range(10):
            measure.ours.append(self.ours.invoke("--list"))
            measure.other.append(timed(sys.executable, "-m", "invoke", "--list", cwd=empty))
        return [measure]

    def logging(self) -> list[Measure]:
        one = Measure("client log_metric p50, one client", "<= 0.15", "ms", 0.15)
        many = {
            kind: Measure(f"32 clients, {kind}", ">= 2.5", "requests/s", 2.5, "large")
            for kind in ("log-metric", "log-batch", "search")
        }
        sides = ((self.ours, "ours"), (self.baseline, "other"), (self.embedded, "embedded"))
        busiest = 0.0
        with running(*(system for system, _ in sides)):
            for _ in range(self.rounds):
                for system, side in sides:
                    getattr(one, side).append(client("latency", system.url, "200")["p50"] * 1000)
                    for kind, measure in many.items():
                        result = client("load", system.url, "8" if self.full else "4", kind)
                        getattr(measure, side).append(result["per_second"])
                        busiest = max(busiest, result["client_cpus"])
                say(f"log_metric p50 {one.ours[-1]:.1f} / {one.other[-1]:.1f} / {one.embedded[-1]:.1f} ms")
            for kind in many:  # one more round, which does not count
                pids = profiles.container_processes(self.ours.container("mlflow"))
                with profiles.recorded(pids, PROFILES, kind):
                    client("load", self.ours.url, str(profiles.SECONDS), kind)
        for measure in many.values():
            measure.note = f"the clients used {busiest:.2f} processors at the most"
        return [one, *many.values()]

    def artifacts(self) -> list[Measure]:
        mib = 1024 if self.full else 256
        up = Measure(f"{mib} MiB artifact up, against boto3", ">= 0.8", "MiB/s", 0.8, "large")
        down = Measure(f"{mib} MiB artifact down, against boto3", ">= 0.8", "MiB/s", 0.8, "large")
        ours, embedded = self.ours, self.embedded
        with running(ours, embedded):
            result = ours.ask("credentials")
            keys = {
                "AWS_ACCESS_KEY_ID": str(result["S3_ACCESS_KEY"]),
                "AWS_SECRET_ACCESS_KEY": str(result["S3_SECRET_KEY"]),
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            }
            network = f"{ours.project}_frontend"
            notebook = ours.notebook_environment()
            patient = {name: notebook[name] for name in PATIENCE}  # no store beside a folder
            for _ in range(self.rounds):
                mine = client("artifact", "http://mlflow:8000", str(mib), network=network, env=notebook)
                straight = client(
                    "boto",
                    "http://store:9000",
                    "mlflow-artifacts",
                    str(mib),
                    network=network,
                    env=keys,
                    image=setting("MLFLOW_IMAGE"),
                )  # the notebook's has no boto3
                folder = client("artifact", embedded.url, str(mib), env=patient)
                for measure, way in ((up, "up"), (down, "down")):
                    measure.ours.append(mine[way])
                    measure.other.append(straight[way])
                    measure.embedded.append(folder[way])
        return [up, down]

    def builds(self) -> list[Measure]:
        nothing = Measure("image build, nothing changed, each", "<= 1 s", "s", 1)
        weight = Measure("size of the mlflow image, against the naive one", "<= 0.7", "MiB", 0.7)
        for service in ("mlflow", "jupyter") * self.rounds:
            nothing.ours.append(self.ours.invoke("build", service))
        _ = self.baseline  # makes the naive images
        weight.ours.append(size(setting("MLFLOW_IMAGE")))
        weight.other.append(size(WEIGHED))
        return [nothing, self.changed(), weight]

    def changed(self) -> Measure:
        """One requirement of the server in another release."""
        measure = Measure("image build, one requirement changed", "-", "s", float("inf"))
        for place in range(self.rounds):
            folder = self.folder / f"changed-{place}"
            folder.mkdir()
            system = Ours("docker", folder, TRACKBED_MLFLOW_IMAGE="trackbed/mlflow:changed")
            measure.note = another_release(system.clone / "docker" / "mlflow" / "requirements.txt", CHANGED)
            measure.ours.append(system.invoke("build", "mlflow"))
            run("docker", "image", "rm", system.env["TRACKBED_MLFLOW_IMAGE"])
        return measure

    def tails(self) -> list[Measure]:
        """The slowest log_metric beside other work; profiles of MLflow's processes in .nox/tails."""
        module = importlib.import_module("benchmarks.tails")
        with running(self.ours, self.baseline):
            result: list[Measure] = module.measure(self.ours, self.baseline, self.rounds, ROOT / ".nox" / "tails")
        return result

    def growth(self) -> list[Measure]:
        """10^3 to 10^5 runs: the rows of benchmarks/growth.py, of two projects of its own; profiles in .nox/growth."""
        module = importlib.import_module("benchmarks.growth")
        before = dict(os.environ)
        try:
            result: list[Measure] = module.whole(
                "docker", self.folder / "growth", self.rounds, ROOT / ".nox" / "growth"
            )
        finally:
            os.environ.clear()
            os.environ.update(before)
        return result


def another_release(lock: Path, name: str) -> str:
    """Put the newest other release of a requirement into a lock; gives "NAME OLD -> NEW"."""
    text = lock.read_text()
    old = re.search(rf"(?m)^{name}==(\S+) .*\n(    .*\n)+", text)
    assert old, f"{name} is not in {lock}"
    new = run(
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--no-deps",
        "--universal",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        "--python-version",
        "3.13",
        "-",
        stdin=f"{name}!={old[1]},<{old[1]}".encode(),
        env=uv_settings(os.environ),
    )
    # the comment is new each time: pip runs, whatever was built before
    lock.write_text(text.replace(old[0], new.rstrip() + "\n") + f"# {time.time()}\n")
    return f"{name} {old[1]} -> {new.split()[0].partition('==')[2]}"


def size(name: str) -> float:
    return int(run("docker", "image", "inspect", "--format", "{{.Size}}", name)) / 2**20


QUICK = ("starts", "embedded", "idle", "disk", "listing", "logging", "artifacts", "builds")
MORE = ("tails", "growth")  # with --full


def table(found: list[Measure]) -> str:
    lines = [
        "| what | goal | ours | baseline | ratio | spread (ours / baseline / embedded) | embedded | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m in found:
        verdict = "" if m.limit == float("inf") else "reached" if m.reached else "missed"
        ratio = f"{m.ratio:.2f}" if m.other else "-"
        lines.append(
            f"| {m.name} | {m.goal} | {m.summary(m.ours)} | {m.summary(m.other)} | {ratio} | {m.spread} | "
            f"{m.summary(m.embedded)} | {verdict} |"
        )
    notes = dict.fromkeys(m.note for m in found if m.note)
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def machine() -> dict[str, object]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "docker": run("docker", "version", "--format", "{{.Server.Version}}").strip(),
        "compose": run("docker", "compose", "version", "--short").strip(),
        "mlflow": setting("MLFLOW_IMAGE"),
        "postgres": service_image("postgres"),
        "store": service_image("versitygw"),
    }


def earlier(path: Path) -> dict[str, Measure]:
    """The rows of an earlier run by name."""
    try:
        return {row["name"]: Measure(**row) for row in json.loads(path.read_text())["measures"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also tails, 10^5 runs, 1 GiB artifacts, longer loads")
    parser.add_argument("--rounds", type=int, help="1, with --full 5")
    parser.add_argument("--only", help=f"some of {','.join((*QUICK, *MORE))}")
    parser.add_argument("--json", type=Path, default=ROOT / ".nox" / "bench.json")
    reported = parser.parse_args()
    rounds = reported.rounds or (5 if reported.full else 1)
    expected = reported.only.split(",") if reported.only else [*QUICK, *(MORE if reported.full else ())]
    folder = Path(tempfile.mkdtemp(prefix="trackbed-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    os.environ.setdefault("TRACKBED_OBJECT_STORE", "versitygw")  # the baseline's store
    bench = Bench(folder, rounds, reported.full)
    steps: dict[str, Callable[[], list[Measure]]] = {
        "starts": bench.starts,
        "embedded": bench.embedded_starts,
        "idle": bench.idle,
        "disk": bench.disk,
        "listing": bench.listing,
        "logging": bench.logging,
        "artifacts": bench.artifacts,
        "builds": bench.builds,
        "tails": bench.tails,
        "growth": bench.growth,
    }
    if unknown := set(expected) - set(steps):
        parser.error(f"--only={','.join(unknown)}: one of {', '.join(steps)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the systems are taken down
    rows = earlier(reported.json) if reported.only else {}
    try:
        for name in expected:
            began = time.monotonic()
            say(f"measuring: {name}")
            date = time.strftime("%Y-%m-%d")
            for row in steps[name]():
                row.date = date
                rows[row.name] = row
            say(f"{name}: {time.monotonic() - began:.0f} s")
            reported.json.parent.mkdir(exist_ok=True)
            reported.json.write_text(
                json.dumps({"machine": machine(), "measures": [asdict(m) for m in rows.values()]}, indent=1)
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{machine()}\n\n{table(list(rows.values()))}")


if __name__ == "__main__":
    main()
