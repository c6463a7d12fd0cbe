"""A run with many artifacts: lists by the store against a folder, and downloads against boto3, in turns.

    python -m benchmarks.many_files [--files=100000] [--fetched=2000] [--rounds=5] [--json=FILE]
    python -m benchmarks.many_files fill --folder=DIR; … measure --folder=DIR; … remove --folder=DIR

Two projects of its own: on Docker the artifacts are objects, on the embedded engine files in a folder. The notebook
downloads ``--fetched`` others as its user does; boto3 does in a container beside it, with the threads that MLflow has.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from benchmarks import steps
from benchmarks.backup import Filled
from benchmarks.bench import table
from benchmarks.runs import Asker
from benchmarks.systems import HERE, Measure, client, run, say, setting
from helpers.clone import ROOT
from helpers.engines.base import MLFLOW

LIST_LIMIT, FETCH_LIMIT = 3.0, 1.1
TURNS = 3  # lists of each side in one round
NAME = "many-files"


@dataclass
class Side:
    """A project with one run, whose artifacts are in the folders ``listed`` and ``fetched``."""

    system: Filled

    @cached_property
    def run(self) -> tuple[str, str]:
        """Its id, and the path of its artifacts on the server; made where it is not there."""
        with self.asker() as asker:
            found = asker.search("0", filter=f"attributes.run_name = '{NAME}'")
            words = {"experiment_id": "0", "start_time": 1, "run_name": NAME}
            info = (found[0] if found else asker.api("runs/create", words)["run"])["info"]
        return str(info["run_id"]), str(info["artifact_uri"]).removeprefix("mlflow-artifacts:/")

    @contextmanager
    def asker(self) -> Iterator[Asker]:
        _, engine = self.system.opened()
        with engine.open(MLFLOW, "http") as address:
            yield Asker(address.url, engine.access_token())

    def fill(self, folder: str, count: int) -> None:
        path = f"{self.system.live['prefix']}/{self.run[1]}/{folder}"
        if self.system.engine == "docker":
            self.boto("files", path, str(count))
            return
        top = Path(self.system.env["TRACKBED_STATE_DIR"], self.system.project, "embedded", "artifacts")
        (top / path).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (top / path / f"{number:06}.txt").write_bytes(b"x")
        run("chown", "-R", f"--reference={top}", str(top / self.system.live["prefix"]))

    def boto(self, what: str, *words: str) -> float:
        """Seconds of boto3 in a container beside the notebook."""
        keys = json.loads(run(sys.executable, "-m", "invoke", "credentials", "--format=json", env=self.system.env))
        env = {
            "AWS_ACCESS_KEY_ID": str(keys["S3_ACCESS_KEY"]),
            "AWS_SECRET_ACCESS_KEY": str(keys["S3_SECRET_KEY"]),
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        network, image = f"{self.system.project}_frontend", setting("MLFLOW_IMAGE")  # the notebook's has no boto3
        found = client(what, "http://store:9000", "mlflow-artifacts", *words, network=network, env=env, image=image)
        return float(found["seconds"])

    def list(self, count: int) -> float:
        """Seconds of one list as MLflow's page and client ask for it."""
        with self.asker() as asker:
            began = time.perf_counter()
            answer = asker.ask("GET", f"/api/2.0/mlflow-artifacts/artifacts?path={self.run[1]}/listed")
            took = time.perf_counter() - began
        if len(answer["files"]) != count:
            raise SystemExit(f"{self.system.engine}: {len(answer['files'])} files instead of {count}")
        return took

    def fetch(self, count: int) -> float:
        """Seconds of a download in the notebook itself."""
        words = (
            "docker",
            "exec",
            "-i",
            f"{self.system.project}-jupyter",
            "python",
            "-",
            "fetch",
            self.run[0],
            "fetched",
        )
        found = json.loads(run(*words, stdin=(HERE / "client.py").read_bytes()).splitlines()[-1])
        if found["count"] != count:
            raise SystemExit(f"{found['count']} files instead of {count}")
        return float(found["seconds"])


def compare(store: Side, folder: Side, files: int, fetched: int, rounds: int) -> list[Measure]:
    lists = Measure(f"list of {files:,} artifacts, against a folder", f"<= {LIST_LIMIT:.0f} x", "s", LIST_LIMIT)
    loads = Measure(f"download of {fetched:,} artifacts, against boto3", f"<= {FETCH_LIMIT} x", "s", FETCH_LIMIT)
    threads = str((os.cpu_count() or 1) * 2)  # MLflow's own number
    for _ in range(rounds):
        for _ in range(TURNS):
            lists.ours.append(store.list(files))
            lists.other.append(folder.list(files))
        loads.ours.append(store.fetch(fetched))
        key = f"{store.system.live['prefix']}/{store.run[1]}/fetched"
        loads.other.append(store.boto("mirror", key, "/tmp/mirror", "down", threads))
        say(f"list {lists.ours[-1]:.2f} / {lists.other[-1]:.2f} s")
        say(f"download {loads.ours[-1]:.1f} / {loads.other[-1]:.1f} s")
    return [lists, loads]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("fill", "measure", "remove"))
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--fetched", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default="", help="of the two projects")
    parser.add_argument("--json", type=Path, default=ROOT / ".nox" / "many-files.json")
    args = parser.parse_args()
    folder = steps.folder(parser, args)
    store, plain = (
        Side(Filled(engine, folder, f"files-{engine}", port))
        for engine, port in (("docker", 27280), ("embedded", 27284))
    )

    def filled() -> None:
        for side in (store, plain):
            side.system.invoke("up")
            side.fill("listed", args.files)
        store.fill("fetched", args.fetched)

    def measured() -> None:
        for side in (store, plain):
            side.system.invoke("up")  # of this very clone
        rows = compare(store, plain, args.files, args.fetched, args.rounds)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
        print(table(rows))

    steps.run(args.step, {"fill": filled, "measure": measured}, (store.system, plain.system), folder)


if __name__ == "__main__":
    main()
