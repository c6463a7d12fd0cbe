"""`invoke backup.prune`: forget backups by a policy, and free what no backup needs any more.

Nobody can lock a folder and a bucket for all machines that use them. So nothing is deleted at once:

1. A blob that no backup needs is moved into the trash, under a name of its own. A backup that looks for it from then on
   does not find it, and stores it again. One that had found it before puts it back when it has named itself.
2. It is deleted when it was in the trash for ``GRACE`` and no backup still needs it, and none is being written that
   began before it was moved: such a backup has its flag up (running.py). The flags are read first, then the names.

What a running backup has just stored is needed by no backup yet; so what is younger than ``GRACE``, or than the oldest
running backup, is not looked at. Each step may be the last one: a blob is at its place or in the trash, where reading
looks for it too.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from helpers.backups import repository, retention, running, scrub
from helpers.backups.formats import Newer
from helpers.backups.needed import TRASH, Needed, original, put_back
from helpers.backups.repository import WORKERS, Harmed, Snapshot
from helpers.backups.retention import Policy
from helpers.backups.running import SLACK
from helpers.backups.storage import Blob, BlobStore, Missing
from helpers.errors import TrackbedError
from helpers.services import ProgressReporter

GRACE = 24 * 3600.0  # seconds
T = TypeVar("T")
_BLOB = re.compile(
    r"pieces/[0-9a-f]{2}/[0-9a-f]{64}|copies/([0-9a-f]{64}|trackbed-[a-z0-9_-]+-[0-9]{8}T[0-9]{6}Z\.json)"
)
_TRASHED = re.compile(rf"{TRASH}({_BLOB.pattern})\.[0-9a-f]{{16}}")


@dataclass
class Amount:
    """So many blobs, of so many bytes."""

    count: int = 0
    size: int = 0

    def add(self, blob: Blob) -> None:
        self.count, self.size = self.count + 1, self.size + blob.size


@dataclass
class PruneResult:
    """``reasons``: why each backup of the project stays, [] where it went. ``unused``: what no backup needs and is old
    enough; ``waiting``: what is in the trash; ``busy``: how many backups are being written."""

    reasons: dict[str, list[str]] = field(default_factory=dict)
    others: int = 0
    unused: Amount = field(default_factory=Amount)
    deleted: Amount = field(default_factory=Amount)
    waiting: Amount = field(default_factory=Amount)
    busy: int = 0

    @property
    def forgotten(self) -> list[str]:
        return [name for name, why in self.reasons.items() if not why]


def decide(store: BlobStore, project: str, policy: Policy) -> dict[str, list[str]]:
    """Why each backup of the project stays. Projects of one name on several machines are not counted together."""
    written = {blob.path: blob.modified for blob in store.listed("backups/")}
    manifests: dict[str, dict[str, Any]] = {}
    result: dict[str, list[str]] = {}
    for name in repository.names(store, project):
        if not retention.plausible(name, written.get(f"backups/{name}.json", float("inf"))):
            result[name] = [retention.WRONG_TIME]
            continue
        try:
            manifests[name] = Snapshot(store, name).manifest()
        except TrackbedError:
            manifests[name] = {}  # by itself: nobody knows whose it is
    # a backup of an earlier version does not tell its project's id; one of the same store may
    ids = {m["origin"]: m["project_id"] for m in manifests.values() if m.get("project_id")}
    groups: dict[str, list[str]] = {}
    for name, manifest in manifests.items():
        origin = manifest.get("origin", name)
        groups.setdefault(str(manifest.get("project_id") or ids.get(origin, origin)), []).append(name)
    for names in groups.values():
        result |= retention.reasons(names, policy)
    return {name: result[name] for name in sorted(result, key=repository.stamp)}


def prune(
    store: BlobStore,
    project: str,
    policy: Policy,
    progress: ProgressReporter,
    dry_run: bool = False,
    at_once: bool = False,
) -> PruneResult:
    """Forget backups of the project by ``policy``, and free what no backup of any project needs.

    ``at_once``: without waiting ``GRACE``, which only backups of earlier versions rely on: they have no flag. Raises
    TrackbedError, and then nothing was forgotten, where a backup that stays cannot be read or lacks a piece.
    """
    _refuse_unknown(store)
    result = PruneResult(decide(store, project, policy))
    everything = repository.names(store)
    result.others = len(everything) - len(result.reasons)
    forgotten = set(result.forgotten)
    with Needed() as needed:
        progress.step("reading what the backups need")
        known = _read(store, needed, (name for name, why in result.reasons.items() if why))
        if forgotten:
            _refuse_damaged(store, needed)
        known |= _read(store, needed, (name for name in everything if name not in result.reasons))
        if dry_run:
            for blob in _unneeded(store, needed, float("inf")):
                result.unused.add(blob)
            return result
        now = running.time_of(store)
        for name in forgotten:
            store.remove(f"backups/{name}.json")
        store.sync()
        progress.step("setting aside what no backup needs")
        mark = secrets.token_hex(8)
        _set_aside(store, needed, now, at_once, mark, result)
        progress.step("deleting what was set aside")
        # first the flags: a backup that has none any more has its name, and is read now
        now = running.time_of(store)
        began = list(running.backups(store, now))
        result.busy = len(began)
        _read(store, needed, (name for name in repository.names(store) if name not in known | forgotten))
        # what this prune has moved is moved; another one may be about to delete what it has copied
        mine, others = (float("inf"), now - store.move_seconds) if at_once else (now - GRACE, now - GRACE)
        _empty(store, needed, lambda blob: mine if blob.path.endswith(f".{mark}") else others, began, result)
        scrub.forget(store, needed)
    store.sync()
    return result


def _read(store: BlobStore, needed: Needed, names: Iterable[str]) -> set[str]:
    """Add what these need; gives their names."""
    result = set()
    for name in names:
        snapshot = Snapshot(store, name)
        try:
            needed.add(snapshot)
        except Newer:
            raise
        except TrackbedError as error:
            if name not in repository.names(store):
                continue  # another prune has just forgotten it
            raise TrackbedError(
                f"{error.message}; as long as nobody knows what this backup needs, nothing is deleted",
                f"`invoke backup.verify {store} --repair` repairs it where its copy is whole; or delete "
                f"{store}/backups/{name}.json, which forgets it",
            ) from None
        result.add(name)
    return result


def _refuse_unknown(store: BlobStore) -> None:
    for name in store.names("backups"):
        # a name that begins with a dot is of a file system or of a program that copies files
        if name.endswith(".json") and "/" not in name and name[0] != "." and not repository.is_name(name[:-5]):
            raise TrackbedError(
                f"{store}/backups/{name} has no name of a backup: nobody knows what it needs, so nothing is deleted",
                "give it back its name trackbed-PROJECT-TIME.json; or move it elsewhere, which forgets it",
            )


def _refuse_damaged(store: BlobStore, needed: Needed) -> None:
    """Else whole backups would go, and those stay that cannot be restored."""
    wrong = {repository.piece(digest) for digest in scrub.damaged(store)}
    there = ((blob.path, blob.size) for blob in store.listed("pieces/") if blob.path not in wrong)
    aside = ((original(blob.path), blob.size) for blob in store.listed(TRASH))
    for path, size in needed.lacking(itertools.chain(there, aside)):
        try:
            repository.fetch(store, path, path.rpartition("/")[2], size)
        except Harmed as error:
            raise TrackbedError(
                f"{store}/{path} {error}; a backup that would stay needs it, so nothing was forgotten",
                f"`invoke backup.verify {store} --repair` stores it again where the running project still has it, and "
                f"names the backups that stay damaged; deleting the file of one below {store}/backups/ forgets it",
            ) from None


def _unneeded(store: BlobStore, needed: Needed, before: float) -> Iterator[Blob]:
    """What none of the backups needs and was written before that time."""
    for top in ("pieces/", "copies/"):
        for blob in store.listed(top):
            if _BLOB.fullmatch(blob.path) and blob.modified < before and blob.path not in needed:
                yield blob


def _set_aside(store: BlobStore, needed: Needed, now: float, at_once: bool, mark: str, result: PruneResult) -> None:
    flags = [began - SLACK for began in running.backups(store, now)]
    before = min([*flags, now + SLACK if at_once else now - GRACE])

    def move(blob: Blob) -> bool:
        try:
            store.move(blob.path, f"{repository.trashed(blob.path)}{mark}")
        except Missing:
            return False  # another prune was faster
        return True

    for blob, moved in _each((blob, move) for blob in _unneeded(store, needed, before)):
        if moved:
            result.unused.add(blob)


def _empty(
    store: BlobStore, needed: Needed, before: Callable[[Blob], float], began: list[float], result: PruneResult
) -> None:
    """Delete what was in the trash before the time that counts for it, and is not needed after all."""
    # a backup that may rely on what was moved after this
    reliant = min(began, default=float("inf")) - SLACK - store.move_seconds

    def look(blob: Blob, is_needed: bool, old: bool) -> Amount | None:
        if is_needed and put_back(store, blob.path):
            return None
        if not old:
            return result.waiting
        store.remove(blob.path)
        return result.deleted

    def chosen() -> Iterator[tuple[Blob, Callable[[Blob], Amount | None]]]:
        for blob in store.listed(TRASH):
            if _TRASHED.fullmatch(blob.path):
                old = blob.modified <= before(blob) and blob.modified < reliant
                yield blob, partial(look, is_needed=original(blob.path) in needed, old=old)

    for blob, amount in _each(chosen()):
        if amount is not None:
            amount.add(blob)


def _each(blobs: Iterable[tuple[Blob, Callable[[Blob], T]]]) -> Iterator[tuple[Blob, T]]:
    """What is to be done with each blob, several of them at a time; gives what came of it."""
    under_way = deque[tuple[Blob, Future[T]]]()
    with ThreadPoolExecutor(WORKERS) as workers:
        for blob, act in blobs:
            under_way.append((blob, workers.submit(act, blob)))
            if len(under_way) > 2 * WORKERS:
                done, future = under_way.popleft()
                yield done, future.result()
        for done, future in under_way:
            yield done, future.result()
