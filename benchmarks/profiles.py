"""What a benchmark leaves beside its figures: where `invoke up` and the processes of a server spend their time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.systems import Ours, run

SECONDS = 10  # of one profile
PROFILER = ("tool", "run", "--from", "py-spy==0.4.3", "py-spy", "record", "--gil", "--nonblocking", "--format=raw")


def container_processes(container: str) -> list[str]:
    """The processes of a container, by their ids on this machine."""
    return run("docker", "top", container, "-o", "pid").split()[1:]


def folder_processes(folder: Path, word: str) -> list[str]:
    """The processes whose command names the folder and a word, with their children: an embedded service's."""
    named = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(folder) in (line := " ".join(process.info["cmdline"] or ())) and word in line
    ]
    return sorted({str(process.pid) for top in named for process in (top, *top.children(recursive=True))})


@contextmanager
def recorded(pids: Iterable[str], folder: Path, name: str, seconds: int = SECONDS) -> Iterator[None]:
    """py-spy beside each process, as collapsed stacks in FOLDER/NAME-PID.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    spies = []
    for pid in pids:
        target = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name)}-{pid}.txt"
        words = ("uv", *PROFILER, "--duration", str(seconds), "--output", str(target), "--pid", pid)
        spies.append(
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
    try:
        yield
    finally:
        for spy in spies:
            with suppress(subprocess.TimeoutExpired):
                spy.wait(seconds + 50)
            spy.kill()


def starts(system: Ours, folder: Path) -> None:
    """cProfile's files of `invoke up` from nothing, over existing data, and when all is up. Removes the data."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("first", "later", "noop"):
        words = ("-m", "cProfile", "-o", str(folder / f"{system.engine}-up-{name}.prof"), "-m", "invoke", "up")
        run(sys.executable, *words, env=system.env, cwd=system.clone)
        if name == "first":
            system.down()
    system.down(data=True)
