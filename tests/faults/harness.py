"""Writers that remember what was acknowledged, looking for all of it afterwards, and the rounds in between."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import tenacity

from tests.conftest import PATIENCE, Clone

WRITERS = 2
BY_ITSELF = 90.0  # seconds a project has to come back without help
Write = dict[str, Any]
Fault = Callable[[Clone, random.Random], None]


@dataclass
class Tally:
    """Figures of one fault class on one engine."""

    rounds: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    refused: int = 0
    worst: float = 0.0
    repaired: int = 0  # rounds that took a task of ours


class Writers:
    """Writers of one project, started once and paused between the rounds; their journals."""

    def __init__(self, url: str, python: str, folder: Path, seed: int, retries: int = 0) -> None:
        """``retries``: of MLflow's client, for each request; by default what is refused once is refused."""
        folder.mkdir(parents=True, exist_ok=True)
        self.journals = [folder / f"journal-{number}" for number in range(WRITERS)]
        self._refused = folder / "refused"
        with self._refused.open("w") as refused:
            self._running = [
                subprocess.Popen(
                    [
                        python,
                        str(Path(__file__).with_name("writer.py")),
                        url,
                        str(journal),
                        str(seed + number),
                        str(retries),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=refused,
                    text=True,
                )
                for number, journal in enumerate(self.journals)
            ]
        for journal in self.journals:
            journal.touch()
        self._seen = self._told = 0

    def _tell(self, word: str) -> None:
        for process in self._running:
            assert process.stdin is not None and process.poll() is None, self._refused.read_text()[-2000:]
            process.stdin.write(word + "\n")
            process.stdin.flush()

    def go(self, timeout: float = PATIENCE) -> None:
        """Let them write; returns when each got a write through."""
        self._tell("go")
        self.progress(timeout)

    def progress(self, timeout: float = PATIENCE) -> None:
        """Wait until each writer got one more write through."""
        before = [journal.stat().st_size for journal in self.journals]
        deadline = time.monotonic() + timeout
        while any(j.stat().st_size <= size for j, size in zip(self.journals, before, strict=True)):
            assert time.monotonic() < deadline, "no write gets through: " + self._refused.read_text()[-2000:]
            time.sleep(0.05)

    def pause(self) -> None:
        """Returns when no write is under way."""
        self._tell("pause")
        for process in self._running:
            assert process.stdout is not None and process.stdout.readline() == "paused\n"

    def fresh(self) -> list[Write]:
        """What was acknowledged since the last call; the writers are paused."""
        every = [json.loads(line) for journal in self.journals for line in journal.read_text().splitlines()]
        every.sort(key=lambda write: write["at"])
        result, self._seen = every[self._seen :], len(every)
        return result

    def refusals(self) -> list[str]:
        """The writes that got an error or no answer since the last call."""
        every = self._refused.read_text().splitlines()
        result, self._told = every[self._told :], len(every)
        return result

    def close(self) -> None:
        for process in self._running:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(requests.RequestException)
    | tenacity.retry_if_result(lambda answer: answer.status_code in (502, 503, 504)),
    wait=tenacity.wait_exponential(0.2, max=10),
    stop=tenacity.stop_after_delay(PATIENCE),
)
def get(web: requests.Session, url: str, **params: str) -> requests.Response:
    """An answer with all of its body: the workers of a killed server are ended by the next one while they send."""
    return web.get(url, params=params, timeout=PATIENCE)


def lost(url: str, writes: list[Write]) -> list[str]:
    """What was acknowledged and is not there, row for row and byte for byte. ``url`` of the tracking server."""
    base, missing = f"{url}/api/2.0", []
    web = requests.Session()
    by_run: dict[str, list[Write]] = {}
    for write in writes:
        by_run.setdefault(write["run"], []).append(write)
    for run, expected in by_run.items():
        answer = get(web, f"{base}/mlflow/runs/get", run_id=run)
        if answer.status_code == 404:
            missing += [f"{write['kind']} {write}" for write in expected]
            continue
        answer.raise_for_status()
        result = answer.json()["run"]
        root = result["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        params = {p["key"]: p["value"] for p in result["data"].get("params", [])}
        history = get(web, f"{base}/mlflow/metrics/get-history", run_id=run, metric_key="m")
        rows = {(int(m.get("step", 0)), m["value"]) for m in history.json().get("metrics", [])}
        for write in expected:
            if write["kind"] == "metric" and (write["step"], write["value"]) not in rows:
                missing.append(f"metric {write}")
            elif write["kind"] == "param" and params.get(write["key"]) != write["value"]:
                missing.append(f"param {write}")
            elif write["kind"] == "artifact":
                content = get(web, f"{base}/mlflow-artifacts/artifacts/{root}/{write['path']}")
                if content.status_code != 200 or hashlib.sha256(content.content).hexdigest() != write["sha"]:
                    missing.append(f"artifact {write} ({content.status_code})")
    return missing


def usable(url: str) -> bool:
    """A read through to the database and one to the store."""
    try:
        for path in ("mlflow/experiments/search?max_results=1", "mlflow-artifacts/artifacts?path=probe"):
            if requests.get(f"{url}/api/2.0/{path}", timeout=5).status_code != 200:
                return False
    except requests.RequestException:
        return False
    return True


@dataclass
class Harness:
    """One project with its writers, and everything that has to be in it."""

    clone: Clone
    writers: Writers
    rng: random.Random
    kept: list[Write] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.clone.url("mlflow")

    def round(self, fault: Fault, tally: Tally, by_itself: float = BY_ITSELF) -> None:
        """A fault at a random moment of writing, then ready again: by itself, or by `invoke up`."""
        self.writers.go()
        time.sleep(self.rng.uniform(0.2, 1.5))
        fault(self.clone, self.rng)
        self.recover(tally, by_itself)
        self.writers.progress()
        tally.rounds += 1

    def recover(self, tally: Tally, by_itself: float = BY_ITSELF) -> None:
        """Wait until it is usable again; after ``by_itself`` seconds with one `invoke up`."""
        began, helped = time.monotonic(), False
        time.sleep(0.3)
        while not usable(self.url):
            if time.monotonic() - began > by_itself and not helped:
                helped = True
                done = self.clone.invoke("up")
                assert done.returncode == 0, done.stderr
            assert time.monotonic() - began < by_itself + 300, "not usable again"
            time.sleep(0.1)
        tally.worst = max(tally.worst, time.monotonic() - began)
        tally.repaired += helped

    def verify(self, tally: Tally) -> None:
        """End a class: the writers rest, and what they were told is looked for."""
        self.writers.pause()
        writes = self.writers.fresh()
        assert writes, "nothing was acknowledged"
        tally.refused += len(self.writers.refusals())
        tally.acknowledged += len(writes)
        self.kept += writes
        missing = lost(self.url, writes)
        tally.lost += missing
        assert not missing


def family(pid: int) -> list[int]:
    """A process and all that came from it."""
    result = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                result += family(int(child))
        except OSError:
            continue
    return result


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # a connection that ended
