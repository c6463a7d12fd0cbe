"""`invoke backup` and `invoke restore` against `pg_dump` and a plain mirror of the store, in turns, in one run.

    python -m benchmarks.backup [fill|measure|remove] [--engine=docker|embedded] [--runs=10000] [--mib=5120]
                                [--shared] [--rounds=2] [--only=backup,again,restore] [--folder=DIR] [--json=FILE]

Two systems are filled: a whole one, and one of a tenth of it for the proof that memory does not grow. Rows go into the
database by SQL, objects into the store by `trackbed-mlflow in`. The plain way: pg_dump -Fc through the same pipe and
boto3 with 8 threads in a container beside the store (docker), or `cp -r` of the artifacts (embedded); pg_restore and
the same back into names of its own. `again`: a second backup into a repository, after one percent of the objects of
each size changed, against the first one. No two objects have a block in common; with --shared two of three are equal to
the one before, as data sets and models are that are logged again: a repository stores them once. Both sides start after
a `sync` and end with one: what is measured is on the disk. Peak memory is VmHWM of the task and of its command inside
the service, looked at 10 times a second. What each task told, with its times, goes into a file beside that of --json.
Without a step: all three. Needs root and an engine on this machine, to see its processes. Timings never decide a test.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, cast

from benchmarks import steps
from benchmarks.bench import table
from benchmarks.systems import HERE, Measure, run
from helpers import lifecycle, status
from helpers.clone import ROOT
from helpers.data import artifacts, database
from helpers.engines.base import POSTGRES, Engine
from helpers.project.project import Project

# bytes of an object, and how many of 10,000 and 5 GiB; the last takes what is left
SIZES = ((0, 500), (1000, 5000), (20_000, 3000), (250_000, 1200), (2_000_000, 280), (20_000_000, 19))
BIG = 200_000_000
THREADS = 8
TURN, SELDOM = 0.1, 5  # seconds between two looks at the memory; looks between two searches for processes
INSIDE = ("out", "in", "sums", "drop")
FILL = """
INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time)
SELECT 'bench ' || e, 'mlflow-artifacts:/bench' || e, 'active', 1, 1 FROM generate_series(1, 10) e;
INSERT INTO runs SELECT md5(r::text), 'run ' || r, 'UNKNOWN', '', '', 'bench', 'FINISHED', r, r + 1, '', 'active',
    'mlflow-artifacts:/bench' || (r % 10 + 1) || '/' || md5(r::text) || '/artifacts',
    (SELECT experiment_id FROM experiments WHERE name = 'bench ' || (r % 10 + 1)) FROM generate_series(1, {runs}) r;
INSERT INTO params SELECT 'param ' || p, md5((r * p)::text), md5(r::text)
    FROM generate_series(1, {runs}) r, generate_series(1, 10) p;
INSERT INTO tags SELECT 'tag ' || p, md5((r * p)::text), md5(r::text)
    FROM generate_series(1, {runs}) r, generate_series(1, 5) p;
INSERT INTO metrics SELECT 'metric ' || m, sin(r * m * s), s, md5(r::text), s, false
    FROM generate_series(1, {runs}) r, generate_series(1, 5) m, generate_series(1, 20) s;
INSERT INTO latest_metrics SELECT 'metric ' || m, sin(r * m * 20), 20, 20, false, md5(r::text)
    FROM generate_series(1, {runs}) r, generate_series(1, 5) m;
ANALYZE;
"""


class Filled:
    """A system of this clone in a state folder of its own; the same one for the same folder, engine and name."""

    def __init__(self, engine: str, folder: Path, name: str, port: int) -> None:
        self.engine, self.name, self.project = engine, name, f"bench-backup-{name}"
        self.env = {
            "TRACKBED_ENGINE": engine,
            "TRACKBED_PROJECT": self.project,
            "TRACKBED_STATE_DIR": str(folder / "state"),
            "TRACKBED_MLFLOW_PORT": str(port),
            "TRACKBED_JUPYTER_PORT": str(port + 1),
            "TRACKBED_S3_PORT": str(port + 2),
            "TRACKBED_S3_CONSOLE_PORT": str(port + 3),
        }
        if engine == "embedded":
            self.env["TRACKBED_OBJECT_STORE"] = "auto"

    def invoke(self, *words: str) -> None:
        run(sys.executable, "-m", "invoke", *words, env=self.env)

    def opened(self) -> tuple[Project, Engine]:
        os.environ.update(self.env)
        system = lifecycle.load({})
        return system, status.running(system)

    @property
    def live(self) -> dict[str, str]:
        return self.opened()[0].state.active


BLOCK = 2**20


class Some:
    """A stream of ``size`` bytes that do not compress, in constant memory. No two seeds have a block in common, and no
    stream repeats one: a repository that stores equal pieces once has to store all of it."""

    def __init__(self, size: int, seed: int) -> None:
        self.left, self._seed, self._number, self._rest = size, seed, 0, b""

    def read(self, count: int = -1) -> bytes:
        if not self._rest:
            source = random.Random(f"{self._seed} {self._number}")
            self._rest, self._number = source.randbytes(min(BLOCK, self.left)), self._number + 1
        result = self._rest if count < 0 else self._rest[:count]
        self._rest, self.left = self._rest[len(result) :], self.left - len(result)
        return result


def contents(runs: int, mib: int, shared: bool = False) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Objects of many sizes, one for each run and big ones for the rest, below paths as MLflow names them.

    ``shared``: two of three have the content of the one before them.
    """
    import hashlib

    left, number = mib * 2**20, 0
    for size, of_ten_thousand in SIZES:
        for _ in range(of_ten_thousand * runs // 10_000):
            number += 1
            result = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
            path = f"bench{number % 10 + 1}/{result}/artifacts/model {size}.bin"
            yield path, size, cast("IO[bytes]", Some(size, number - number % 3 if shared else number))
            left -= size
    while left > 0:
        number += 1
        size = min(BIG, left)
        content = Some(size, number - number % 3 if shared else number)
        yield f"bench1/big/artifacts/{number}.bin", size, cast("IO[bytes]", content)
        left -= size


def fill(system: Filled, runs: int, mib: int, shared: bool) -> None:
    system.invoke("up")
    _, engine = system.opened()
    live = system.live
    with engine.pipe(POSTGRES, (*database.PSQL, "-d", live["database"])) as pipe:
        pipe.into.write(FILL.format(runs=runs).encode())
        pipe.finish(600)
    began = time.perf_counter()
    artifacts.write(engine, live["prefix"], contents(runs, mib, shared))
    print(
        f"{system.name}: {runs} runs, {mib} MiB of objects stored in {time.perf_counter() - began:.0f} s",
        file=sys.stderr,
        flush=True,
    )


# peak memory


def _peak(folder: Path) -> float:
    """VmHWM in MiB; 0 for a process that has ended."""
    try:
        text = (folder / "status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0.0)


def _words(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


class Peaks:
    """The most memory, in MiB, of the task's process and of its commands inside the MLflow service; ``steps``: what
    the task told, with its times."""

    def __init__(self) -> None:
        self.task = self.inside = 0.0
        self.steps = ""
        self._looks = 0
        self._commands: list[Path] = []

    def look(self, task: int) -> None:
        if self._looks % SELDOM == 0:  # going through all processes takes a while
            self._commands = [folder for folder in Path("/proc").glob("[0-9]*") if self._of_a_service(_words(folder))]
        self._looks += 1
        self.task = max(self.task, _peak(Path(f"/proc/{task}")))
        self.inside = max(self.inside, *map(_peak, self._commands), 0.0)

    @staticmethod
    def _of_a_service(words: list[str]) -> bool:
        """The command's own process, not the client that waits for it."""
        return any(
            word.endswith(("/start.py", "/trackbed-mlflow")) and following in INSIDE
            for word, following in itertools.pairwise(words[:4])
        )


@contextmanager
def on_disk(samples: list[float]) -> Iterator[None]:
    os.sync()
    began = time.perf_counter()
    yield
    os.sync()
    samples.append(time.perf_counter() - began)


def watched(system: Filled, *words: str) -> Peaks:
    """`invoke WORDS`, with the peaks of its memory."""
    result = Peaks()
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", *words],
        cwd=ROOT,
        env={**os.environ, **system.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        result.look(process.pid)
        time.sleep(TURN)
    said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(f"invoke {' '.join(words)}: {said}")
    result.steps = f"{system.name}: invoke {' '.join(words)}\n{said}"
    return result


# the plain way


def mirror(system: Filled, prefix: str, folder: Path, way: str) -> None:
    """All objects below ``prefix`` down into ``folder``, or up from it."""
    state, _ = system.opened()
    if system.engine == "embedded":
        live = state.settings.folder / "embedded" / "artifacts" / prefix
        source, target = (live, folder) if way == "down" else (folder, live)
        run("cp", "-rT", str(source), str(target))
        run("chown", "-R", f"--reference={live.parent}", str(target))
        return
    data = json.loads(run(sys.executable, "-m", "invoke", "credentials", "--format=json", env=system.env))
    keys = {
        "AWS_ACCESS_KEY_ID": data["S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": data["S3_SECRET_KEY"],
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    run(
        "docker",
        "run",
        "--rm",
        "-i",
        "--network",
        f"{system.project}_frontend",
        "-u",
        "0",
        "-v",
        f"{folder}:/mirror",
        *(word for key in keys for word in ("-e", key)),
        "--entrypoint",
        "python",
        state.settings.mlflow_image,
        "-",
        "mirror",
        "http://store:9000",
        "mlflow-artifacts",
        prefix,
        "/mirror",
        way,
        str(THREADS),
        stdin=(HERE / "client.py").read_bytes(),
        env=keys,
    )


def plain_backup(system: Filled, folder: Path) -> None:
    _, engine = system.opened()
    live = system.live
    with (
        engine.pipe(POSTGRES, ("pg_dump", "-Fc", "-U", "mlflow", "-d", live["database"])) as pipe,
        (folder / "dump").open("wb") as target,
    ):
        shutil.copyfileobj(pipe.out, target, 2**20)
        pipe.finish(600)
    (folder / "objects").mkdir()
    mirror(system, live["prefix"], folder / "objects", "down")


def plain_restore(system: Filled, folder: Path, name: str) -> None:
    _, engine = system.opened()
    database.create(engine, name)
    command = ("pg_restore", "--exit-on-error", "--no-owner", "-U", "mlflow", "-d", name)
    with engine.pipe(POSTGRES, command) as pipe, (folder / "dump").open("rb") as source:
        shutil.copyfileobj(source, pipe.into, 2**20)
        pipe.finish(600)
    mirror(system, name, folder / "objects", "up")


# the measures


def changed(runs: int, mib: int, number: int) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Every hundredth object with another content, other ones for another ``number``; none that is a percent itself."""
    for place, (path, size, _) in enumerate(contents(runs, mib)):
        if place % 100 == number % 100 and size < mib * 2**20 // 100:
            yield path, size, cast("IO[bytes]", Some(size, 100_003 * (number + 1) + place))


def again(whole: Filled, folder: Path, rounds: int, runs: int, mib: int, what: str) -> list[Measure]:
    """The second backup into a repository against the first."""
    result = Measure(f"second backup into a repository, 1 % changed, {what}", "<= 0.1", "s", limit=0.1)
    place = folder / "repository"
    for number in range(rounds):
        shutil.rmtree(place, ignore_errors=True)
        with on_disk(result.other):
            whole.invoke("backup", f"--to={place}/")
        _, engine = whole.opened()
        artifacts.write(engine, whole.live["prefix"], changed(runs, mib, number))
        with on_disk(result.ours):
            whole.invoke("backup", f"--to={place}/")
        print(f"again: {result.ours[-1]:.1f} s, the first {result.other[-1]:.1f} s", file=sys.stderr, flush=True)
    return [result]


def measure(
    whole: Filled, tenth: Filled, folder: Path, rounds: int, only: list[str], what: str, steps: list[str]
) -> list[Measure]:
    """``steps`` gets what each task told, with its times."""
    result = []
    for kind in only:
        if kind == "again":
            continue  # without plain tools
        speed = Measure(f"{kind}, {what}", "-", "s", limit=float("inf"))
        task = Measure(f"{kind}: peak memory of the task, against a tenth of the data", "<= 1.1", "MiB", limit=1.1)
        inside = Measure(f"{kind}: peak memory inside the service, against a tenth", "<= 1.1", "MiB", limit=1.1)
        for number in range(rounds):
            archive, plain = folder / "whole.tar", folder / "plain"
            words = (
                ["backup", f"--to={archive}"] if kind == "backup" else ["restore", str(archive), "--yes", "--no-backup"]
            )
            if kind == "backup" or not archive.exists():
                archive.unlink(missing_ok=True)
            if kind == "restore" and not archive.exists():
                whole.invoke("backup", f"--to={archive}")
            with on_disk(speed.ours):
                peaks = watched(whole, *words)
            steps.append(peaks.steps)
            task.ours.append(peaks.task)
            inside.ours.append(peaks.inside)
            if kind == "backup":
                shutil.rmtree(plain, ignore_errors=True)
                plain.mkdir()
                with on_disk(speed.other):
                    plain_backup(whole, plain)
            else:
                if not plain.exists():
                    plain.mkdir()
                    plain_backup(whole, plain)
                name = f"plain_{number}"
                with on_disk(speed.other):
                    plain_restore(whole, plain, name)
                _, engine = whole.opened()
                database.drop(engine, name)
                artifacts.drop(engine, name)
            small = folder / "tenth.tar"
            if kind == "backup":
                small.unlink(missing_ok=True)
                peaks = watched(tenth, "backup", f"--to={small}")
            else:
                if not small.exists():
                    tenth.invoke("backup", f"--to={small}")
                peaks = watched(tenth, "restore", str(small), "--yes", "--no-backup")
            task.other.append(peaks.task)
            inside.other.append(peaks.inside)
            print(
                f"{kind}: {speed.ours[-1]:.1f} s, plain {speed.other[-1]:.1f} s; MiB {task.ours[-1]:.0f} and "
                f"{inside.ours[-1]:.0f}, of a tenth {peaks.task:.0f} and {peaks.inside:.0f}",
                file=sys.stderr,
                flush=True,
            )
        result += [speed, task, inside]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="?", choices=("fill", "measure", "remove"))
    parser.add_argument("--engine", choices=("docker", "embedded"), default="docker")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--mib", type=int, default=5120)
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="backup,again,restore")
    parser.add_argument("--folder", default="")
    parser.add_argument("--json", default=str(ROOT / ".nox" / "bench-backup.json"))
    reported = parser.parse_args()
    folder = steps.folder(parser, reported)
    base = 27200 if reported.engine == "docker" else 27220
    whole, tenth = (
        Filled(reported.engine, folder, f"{reported.engine}-{name}", port)
        for name, port in (("whole", base), ("tenth", base + 10))
    )
    result: list[Measure] = []
    told: list[str] = []

    def filled() -> None:
        fill(tenth, reported.runs // 10, reported.mib // 10, reported.shared)
        fill(whole, reported.runs, reported.mib, reported.shared)

    def measured() -> None:
        for system in (whole, tenth):
            system.invoke("up")  # of this very clone
        kinds, what = reported.only.split(","), f"{reported.runs} runs, {reported.mib} MiB, {reported.engine}"
        what += ", shared" if reported.shared else ""
        result.extend(measure(whole, tenth, folder, reported.rounds, kinds, what, told))
        if "again" in kinds:
            result.extend(again(whole, folder, reported.rounds, reported.runs, reported.mib, what))

    steps.run(reported.step, {"fill": filled, "measure": measured}, (whole, tenth), folder)
    if not result:
        return
    machine = {
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "docker": run("docker", "version", "--format", "{{.Server.Version}}").strip()
        if reported.engine == "docker"
        else "",
        "date": time.strftime("%Y-%m-%d"),
        "rounds": reported.rounds,
        "rate": f"{reported.mib / statistics.median(result[0].ours):.0f} MiB/s",
    }
    Path(reported.json).parent.mkdir(exist_ok=True)
    Path(reported.json).with_suffix(".steps.txt").write_text("\n".join(told))
    Path(reported.json).write_text(json.dumps({"machine": machine, "measures": [asdict(m) for m in result]}, indent=1))
    print(f"{machine}\n\n{table(result)}")


if __name__ == "__main__":
    main()
