"""An encrypted backup repository against a plain one, in turns, in one run: the same objects, in a folder.

    python -m benchmarks.repository [--mib=2048] [--rounds=3] [--folder=DIR]

Half of the bytes are objects of 256 KiB, half are of 32 MiB. They are made in memory, so nothing but the repository is
measured: the first backup, a second one after one percent of the objects changed, reading everything back, and a prune
to the last backup. Each measure begins and ends with a `sync`; each round is a process of its own, whose peak memory is
VmHWM. Timings never decide a test.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from helpers.backups import damage, encrypted, prune, repository
from helpers.backups.repository import Snapshot
from helpers.backups.repository_writer import Writer
from helpers.backups.retention import Policy
from helpers.backups.storage import BlobStore, Folder

SMALL, BIG = 256 * 2**10, 32 * 2**20
BLOCK = random.Random(1).randbytes(2**20)
DUMP = 2_000_000
MODES = ("plain", "encrypted")
FACTS = {"schema": "x", "mlflow": "x", "tables": {}, "dump_bytes": DUMP}


class Made:
    """A stream of ``size`` bytes, no MiB of which is equal to another, in constant memory."""

    def __init__(self, size: int, seed: str) -> None:
        self._left, self._seed, self._blocks, self._rest = size, seed, 0, memoryview(b"")

    def read(self, count: int = -1) -> bytes:
        if not self._rest:
            head = f"{self._seed} {self._blocks} ".encode()
            self._rest, self._blocks = memoryview(head + BLOCK[len(head) :]), self._blocks + 1
        count = min(self._left, count if count >= 0 else self._left, len(self._rest))
        result, self._rest = bytes(self._rest[:count]), self._rest[count:]
        self._left -= count
        return result


class Silent:
    """No progress."""

    def step(self, text: str) -> None: ...

    def service(self, name: str, state: str, note: str = "") -> None: ...

    def amount(self, name: str, done: int, whole: int, note: str) -> None: ...

    def output(self, line: str) -> None: ...


def objects(mib: int, changed: int) -> Iterator[tuple[str, int, str]]:
    """Name, size and mark; ``changed``: how many percent of each size have another one."""
    for size in (SMALL, BIG):
        for number in range(mib * 2**19 // size):
            yield f"1/{size}/{number}", size, f"{int(number * changed % 100 < changed)} {number}"


def back_up(store: BlobStore, mib: int, changed: int) -> str:
    with Writer(store, "bench", {"made": "2026-01-01T00:00:00+00:00"}, "here") as writer:
        writer.small("settings.json", b"{}")
        writer.database(io.BytesIO(random.Random(changed).randbytes(DUMP)))
        known = {name: (size, mark) for name, size, mark in objects(mib, changed)}
        for name in writer.listed(objects(mib, changed)):
            size, mark = known[name]
            writer.object(name, size, cast("IO[bytes]", Made(size, f"{name} {mark}")))
        return writer.finish(FACTS)[0]


def one(mode: str, mib: int, folder: Path) -> dict[str, float]:
    """Seconds of each measure, MiB of memory and of the disk."""
    result: dict[str, float] = {}
    phrase = "only for this benchmark" if mode == "encrypted" else ""
    store = encrypted.opened(Folder(folder), phrase, make=True)

    def timed(what: str, act: Callable[[], object]) -> None:
        os.sync()
        began = time.perf_counter()
        act()
        os.sync()
        result[what] = time.perf_counter() - began

    def read_back() -> None:
        if not damage.examine(store, repository.names(store)).ok:
            raise SystemExit("it is damaged")

    timed("first backup, s", lambda: back_up(store, mib, 0))
    result["size on the disk, MiB"] = _size(folder)
    timed("second backup, 1 % changed, s", lambda: back_up(store, mib, 1))
    timed("reading everything back, s", read_back)
    timed("prune to the last backup, s", lambda: prune.prune(store, "bench", Policy(last=1), Silent(), at_once=True))
    Snapshot(store, repository.names(store)[-1]).manifest()
    status = Path("/proc/self/status").read_text()
    result["peak memory, MiB"] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return result


def _size(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default="")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.mode:
        print(json.dumps(one(given.mode, given.mib, Path(given.folder))))
        return
    samples: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    folder = Path(tempfile.mkdtemp(prefix="trackbed-bench-", dir=given.folder or None))
    try:
        for _ in range(given.rounds):
            for mode in MODES:
                words = (f"--mode={mode}", f"--mib={given.mib}", f"--folder={folder / mode}")
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.repository", *words],
                    stdout=subprocess.PIPE,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    check=True,
                )
                samples[mode].append(json.loads(done.stdout))
                shutil.rmtree(folder / mode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what in samples["plain"][0]:
        plain, other = (statistics.median(sample[what] for sample in samples[mode]) for mode in MODES)
        spread = " ".join(f"{sample[what]:.2f}" for mode in MODES for sample in samples[mode])
        print(f"{what}: plain {plain:.2f}, encrypted {other:.2f}, ratio {other / plain:.3f}   ({spread})")


if __name__ == "__main__":
    main()
