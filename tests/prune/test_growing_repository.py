"""200 backups of a growing system prune to their policy, killed at every step: each that is kept stays restorable.

The repository's own code writes the backups, whose objects are made up and whose database is a real project's. The
task `backup.prune` runs in a process of its own, which ends as by `kill -9`: before a step that it names, before the
first, second or a later change of a kind, and at random times. TRACKBED_FAULT_SEED repeats these.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from helpers.backups import encrypted, needed, repository, repository_writer
from helpers.backups.bucket import Bucket
from helpers.backups.repository import Snapshot
from helpers.backups.storage import BlobStore, Folder
from tests.conftest import Clone, clones
from tests.integration import buckets

pytestmark = pytest.mark.timeout(7200)
BACKUPS, EVERY, LAST = 200, timedelta(hours=8), timedelta(days=10)
DAY = 24 * 3600.0
FLAGS = ("--keep-last=7", "--keep-daily=14", "--keep-weekly=8")
COMPUTED = (
    "kind origin chunks objects object_bytes largest_object objects_sum list list_bytes copies unchanged_objects "
    "new_pieces new_bytes self tables schema mlflow dump_bytes seconds"
).split()
# the k-th event of a kind; what a folder and what a bucket sees of a change
STEPS = [("step", number) for number in (1, 2, 3, 4)]
FOLDER = [(kind, number) for kind in ("os.remove", "os.rename") for number in (1, 2, 40, 400)]
BUCKET = [(kind, number) for kind in ("PutObject", "DeleteObject", "CopyObject") for number in (1, 2, 40, 400)]
RANDOM = 6  # kills at random times
# runs the task that its words name, and ends it before an event
KILLED = """
import os, signal, sys, threading
wanted, number = sys.argv[1], int(sys.argv[2])
lock, seen = threading.Lock(), 0
def reached(kind):
    global seen
    with lock:
        seen += kind == wanted
        if kind == wanted and seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
from helpers import console
step = console.Progress.step
def named(self, text):
    reached("step")
    step(self, text)
console.Progress.step = named
if wanted[0].isupper():
    from botocore.client import BaseClient
    call = BaseClient._make_api_call
    def asked(self, operation, *words):
        reached(operation)
        return call(self, operation, *words)
    BaseClient._make_api_call = asked
elif "." in wanted:
    sys.addaudithook(lambda event, words: reached(event) if event == wanted else None)
sys.argv[:] = ["invoke", *sys.argv[3:]]
from invoke.main import program
program.run()
"""


class Clock(datetime):
    """The writer's clock: a backup each eight hours."""

    current = datetime.now(UTC)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.current


class System:
    """What grows: ``told`` has the objects of each backup, by its name."""

    def __init__(self, seed: int, manifest: dict[str, Any], dump: bytes) -> None:
        self._random, self._manifest, self._dump = random.Random(seed), manifest, dump
        self._objects: dict[str, bytes] = {}
        self.told: dict[str, dict[str, str]] = {}

    def _grow(self, number: int) -> None:
        for place in range(3):
            self._objects[f"1/{number:03}/{place}"] = self._random.randbytes(self._random.randrange(4000))
        self._objects["1/changing"] = self._random.randbytes(1500)
        if number % 50 == 0:
            self._objects["1/large"] = self._random.randbytes(repository.PIECE + 100)
        for name in self._random.sample(sorted(self._objects), 2):
            del self._objects[name]

    def back_up(self, store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(repository_writer, "datetime", Clock)
        monkeypatch.setattr(os, "fsync", lambda handle: None)
        about = {key: value for key, value in self._manifest.items() if key not in COMPUTED}
        facts = {key: self._manifest[key] for key in ("tables", "schema", "mlflow", "dump_bytes")}
        begin = datetime.now(UTC) - LAST - BACKUPS * EVERY
        for number in range(BACKUPS):
            self._grow(number)
            Clock.current = begin + number * EVERY
            about["made"] = Clock.current.isoformat()
            with repository_writer.Writer(store, about["project"], about, self._manifest["origin"]) as writer:
                writer.small("settings.json", b"{}")
                writer.small("users.json", b"{}")
                writer.database(io.BytesIO(self._dump))
                listed = [(key, len(content), digest(content)) for key, content in self._objects.items()]
                for key in writer.listed(listed):
                    writer.object(key, len(self._objects[key]), io.BytesIO(self._objects[key]))
                name, _ = writer.finish(facts)
            self.told[name] = {key: mark for key, _, mark in listed}
        monkeypatch.undo()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def expected(names: list[str]) -> set[str]:
    """What the policy keeps, counted by the calendar."""
    newest_first = sorted(names, key=repository.stamp, reverse=True)
    days, weeks = dict[str, str](), dict[tuple[int, int], str]()
    for name in newest_first:
        made = datetime.strptime(repository.stamp(name), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        days.setdefault(f"{made:%Y%m%d}", name)
        weeks.setdefault(made.isocalendar()[:2], name)
    return {*newest_first[:7], *list(days.values())[:14], *list(weeks.values())[:8]}


class Pruning:
    """`invoke backup.prune` of one place, as often as it takes."""

    def __init__(self, clone: Clone, store: BlobStore, system: System, around: dict[str, str]) -> None:
        self.clone, self.store, self.system, self.around = clone, store, system, around
        self.kept = expected(list(system.told))
        self.kills = self.survived = 0

    def _argv(self, kind: str, number: int, *words: str) -> list[str]:
        return [sys.executable, "-c", KILLED, kind, str(number), "backup.prune", str(self.store), *FLAGS, *words]

    def run(self, *words: str) -> None:
        done = self.clone.invoke("backup.prune", str(self.store), *FLAGS, *words, around=self.around)
        assert done.returncode == 0, done.stderr
        self.look()

    def killed(self, kind: str, number: int, *words: str, after: float | None = None) -> None:
        with subprocess.Popen(
            self._argv(kind, number, *words),
            cwd=self.clone.folder,
            env={**self.clone.environment, **self.around},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            if after is not None:
                time.sleep(after)
                process.kill()
            _, said = process.communicate(timeout=600)
        assert process.returncode in (0, -9), said
        self.kills += process.returncode == -9
        self.survived += process.returncode == 0
        self.look()

    def look(self) -> None:
        """Every backup that stays is there, and no byte of any that is there is damaged or missing."""
        assert self.kept <= set(repository.names(self.store))
        done = self.clone.invoke("backup.verify", str(self.store), around=self.around)
        assert done.returncode == 0, done.stdout + done.stderr

    def compare(self) -> None:
        """Each that stays has what the system had."""
        for name in sorted(self.kept):
            snapshot = Snapshot(self.store, name)
            found = {entry.object: entry.sha256 for entry in snapshot.entries(snapshot.manifest()) if entry.object}
            assert found == self.system.told[name], name

    def round(self, kinds: list[tuple[str, int]], rng: random.Random, *words: str) -> None:
        for kind, number in kinds:
            self.killed(kind, number, *words)
        for _ in range(RANDOM):
            self.killed("never", 1, *words, after=rng.uniform(0, 4))
        self.run(*words)
        self.compare()


@contextmanager
def place(kind: str, folder: Path) -> Iterator[tuple[BlobStore, dict[str, str]]]:
    """The place, and the variables with which a task uses it."""
    if kind == "folder":
        yield Folder(folder), {}
        return
    if kind == "encrypted":
        passphrase = secrets.token_urlsafe(16)
        store = Folder(folder)
        store.begin()
        yield encrypted.opened(store, passphrase, make=True), {"TRACKBED_BACKUP_PASSPHRASE": passphrase}
        return
    with buckets.store("vault") as access:
        yield (
            Bucket("s3://vault/growing", access),
            {
                "TRACKBED_BACKUP_S3_ENDPOINT": access.endpoint,
                "TRACKBED_BACKUP_S3_ACCESS_KEY": access.key,
                "TRACKBED_BACKUP_S3_SECRET_KEY": access.secret,
            },
        )


def age(folder: Path) -> None:
    """Everything there was written two days ago."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime - 2 * DAY,) * 2)


def restored(clone: Clone, store: BlobStore, name: str, around: dict[str, str]) -> dict[str, str]:
    """The objects of the project after a restore of that backup."""
    done = clone.invoke("restore", f"{store}/backups/{name}.json", "--yes", "--no-backup", around=around)
    assert done.returncode == 0, done.stderr
    (active,) = (clone.project_folder / "embedded" / "artifacts").glob("live*")
    files = (path for path in active.rglob("*") if path.is_file())
    return {path.relative_to(active).as_posix(): digest(path.read_bytes()) for path in files}


@pytest.mark.parametrize("kind", ["folder", "encrypted", "bucket"])
def test_two_hundred_backups_prune_to_their_policy(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int(os.environ.get("TRACKBED_FAULT_SEED") or random.randrange(10**6))
    print(f"TRACKBED_FAULT_SEED={seed}")
    with clones() as make, place(kind, tmp_path / "repo") as (store, around):
        clone = make("embedded")
        clone.up()
        first = Snapshot(Folder(tmp_path / "first"), Path(clone.value("backup", f"--to={tmp_path}/first/")).stem)
        manifest = first.manifest()
        dump = b"".join(stream.read() for name, _, stream in first.members(manifest) if name.startswith("database"))
        system = System(seed, manifest, dump)
        begun = time.monotonic()
        system.back_up(store, monkeypatch)
        written = time.monotonic() - begun
        pruning = Pruning(clone, store, system, around)
        assert len(system.told) == BACKUPS and 20 <= len(pruning.kept) <= 29
        pruning.look()
        rng = random.Random(seed)
        words = ["--now"] if kind == "bucket" else []  # nobody can make a bucket's objects older
        steps = [*STEPS, *(BUCKET if kind == "bucket" else FOLDER)]
        if kind != "bucket":
            age(tmp_path / "repo")
        before = sum(blob.size for blob in store.listed("pieces/"))
        pruning.round(steps, rng, *words)
        assert set(repository.names(store)) == pruning.kept
        if kind != "bucket":
            age(tmp_path / "repo")
        pruning.round(steps, rng, *words)
        assert set(repository.names(store)) == pruning.kept
        after = sum(blob.size for blob in store.listed("pieces/"))
        with needed.Needed() as blobs:
            for name in pruning.kept:
                blobs.add(Snapshot(store, name))
            assert {blob.path for blob in store.listed("pieces/")} == {p for p, _ in blobs if p.startswith("pieces/")}
        if kind != "bucket":
            assert not list(store.listed("trash/"))
        assert after < before and pruning.kills > RANDOM
        for name in (min(pruning.kept, key=repository.stamp), max(pruning.kept, key=repository.stamp)):
            assert restored(clone, store, name, around) == system.told[name]
        took = time.monotonic() - begun
        print(
            f"{kind}: {BACKUPS} backups written in {written:.0f} s, {len(pruning.kept)} kept; {pruning.kills} kills, "
            f"{pruning.survived} runs that ended before theirs; {before / 2**20:.1f} MiB, then {after / 2**20:.1f} MiB; "
            f"{took:.0f} s in all"
        )
