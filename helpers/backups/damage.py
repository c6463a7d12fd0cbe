"""Reading all of a repository back: what is damaged or missing, and which backups, runs and artifacts that concerns."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from helpers.backups.archive import ProgressCallback
from helpers.backups.needed import Needed
from helpers.backups.repository import (
    AHEAD,
    DATABASE,
    MANIFEST,
    PIECE,
    WORKERS,
    Entry,
    Harmed,
    Snapshot,
    copy,
    fetch,
    piece,
)
from helpers.backups.storage import BlobStore, Missing, Unreadable
from helpers.backups.workspace_entries import FILES
from helpers.errors import TrackbedError
from helpers.plurals import counted
from helpers.sizes import mib

NAMED = 20  # artifacts of a backup that a report names; all of them are in the list that --skip-damaged writes
_KNOWN = re.compile(
    r"(pieces/[0-9a-f]{2}/[0-9a-f]{64}|copies/[0-9a-f]{64}|(backups|copies)/trackbed-[a-z0-9_-]+"
    r"-[0-9]{8}T[0-9]{6}Z\.json|incoming/.+|checked\.json|running/.+|trash/.+"
    r"|(copies/)?keys/[0-9a-f]{32}\.json)"
)
_RUN = re.compile(r"([^/]+)/([0-9a-f]{32}|m-[0-9a-f]{32}|tr-[0-9a-f]{32})/artifacts/(.+)", re.DOTALL)


def words(name: str) -> str:
    """An entry of a backup as a person knows it: the run and the artifact."""
    if name.startswith(FILES):
        return f"workspace: {name.removeprefix(FILES)!r}"
    path = name.removeprefix("objects/")
    for inner in (path, path.replace("/models/", "/", 1), path.replace("/traces/", "/", 1)):
        if match := _RUN.fullmatch(inner):
            kind = {"m": "model", "t": "trace"}.get(match[2][0], "run")
            return f"experiment {match[1]}, {kind} {match[2]}: {match[3]!r}"
    return repr(path) if name != DATABASE else "the database's dump"


def read_back(store: BlobStore, expected: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
    """Path, size in bytes and what is wrong ("" nothing) of each blob that is named by its SHA-256, in order."""

    def look(path: str, size: int) -> str:
        try:
            fetch(store, path, path.rpartition("/")[2], size)
        except Harmed as error:
            return str(error)
        return ""

    workers, under_way, ahead = ThreadPoolExecutor(WORKERS), deque[tuple[str, int, Future[str]]](), 0
    try:
        for path, size in expected:
            under_way.append((path, size, workers.submit(look, path, size)))
            ahead += size
            while len(under_way) > WORKERS or ahead > AHEAD:
                done, length, result = under_way.popleft()
                ahead -= length
                yield done, length, result.result()
        for done, length, result in under_way:
            yield done, length, result.result()
    finally:
        workers.shutdown(wait=False, cancel_futures=True)


@dataclass
class DamageReport:
    """What a verification found. ``unrestorable``: why a backup cannot be restored at all; ``affected``: how many
    artifacts of each backup are damaged, and the first of them; ``damaged``: what is wrong with each blob, by path."""

    names: tuple[str, ...]
    blobs: int = 0
    size: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    unrestorable: dict[str, str] = field(default_factory=dict)
    affected: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    unused: tuple[int, int] = (0, 0)

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.unrestorable

    @property
    def pieces(self) -> set[str]:
        """The pieces whose content is wrong."""
        return {path.rpartition("/")[2] for path in self.damaged if path.startswith("pieces/")}

    @property
    def restorable(self) -> list[str]:
        """The backups that can be restored without leaving anything out."""
        return [name for name in self.names if name not in self.unrestorable and name not in self.affected]


def affected(store: BlobStore, names: Iterable[str], wrong: set[str]) -> dict[str, Iterator[Entry]]:
    """Of each backup the entries that need one of these pieces."""

    def entries(snapshot: Snapshot) -> Iterator[Entry]:
        return (e for e in snapshot.entries(snapshot.manifest()) if not wrong.isdisjoint(e.pieces))

    return {name: entries(Snapshot(store, name)) for name in names}


def examine(
    store: BlobStore, names: Sequence[str], on_progress: ProgressCallback | None = None, all_of_it: bool = True
) -> DamageReport:
    """Read every byte that these backups need, each once. ``all_of_it``: look for files too that none of them needs.

    Raises TrackbedError where the place does not answer.
    """
    result = DamageReport(tuple(names))
    with Needed() as needed:
        for name in names:
            snapshot = Snapshot(store, name)
            try:
                manifest = needed.add(snapshot)
                _check_manifests(snapshot, bool(manifest.get("copies")), result)
            except TrackbedError as error:
                result.unrestorable[name] = error.message
        whole = needed.size
        for path, size, wrong in read_back(store, needed):
            result.blobs, result.size = result.blobs + 1, result.size + size
            if wrong:
                result.damaged[path] = wrong
            if on_progress:
                on_progress(result.size, result.blobs, whole)
        if result.pieces:
            _name_affected(store, result)
        if all_of_it:
            _find_unknown(store, needed, result)
    return result


def _check_manifests(snapshot: Snapshot, doubled: bool, result: DamageReport) -> None:
    for top in ("backups", "copies") if doubled else ("backups",):
        try:
            snapshot.manifest_at(f"{top}/{snapshot.name}.json")
        except TrackbedError as error:
            result.damaged[f"{top}/{snapshot.name}.json"] = (
                "is missing or damaged: " + error.message.rpartition(": ")[2]
            )


def _name_affected(store: BlobStore, result: DamageReport) -> None:
    names = [name for name in result.names if name not in result.unrestorable]
    for name, entries in affected(store, names, result.pieces).items():
        count, first = 0, list[str]()
        for entry in entries:
            count += 1
            if entry.name == DATABASE:
                result.unrestorable[name] = "its database dump is damaged, without which nothing can be restored"
            if len(first) < NAMED:
                first.append(words(entry.name))
        if count:
            result.affected[name] = count, first


def _find_unknown(store: BlobStore, needed: Needed, result: DamageReport) -> None:
    unused = size = 0
    for path, length, _ in store.listed(""):
        if not _KNOWN.fullmatch(path):
            if len(result.unknown) < NAMED:
                result.unknown.append(path)
        elif path.startswith("pieces/") and path not in needed:
            unused, size = unused + 1, size + length
    result.unused = unused, size


def repair(store: BlobStore, result: DamageReport) -> list[str]:
    """Rewrite manifests and lists from their intact copies. Gives the paths, which are no longer damaged."""
    done = []
    for path in sorted(result.damaged):
        top, _, last = path.partition("/")
        if top in ("keys", "copies") and "keys/" in path:
            continue  # of both not one is whole
        if path.endswith(".json"):
            other = f"{'copies' if top == 'backups' else 'backups'}/{last}"
            content = store.read(other, MANIFEST) if other not in result.damaged else b""
        else:
            digest = path.rpartition("/")[2]
            content = _read_verified(store, copy(digest) if top == "pieces" else piece(digest), digest)
        if content:
            store.write(path, content)
            done.append(path)
    for path in done:
        del result.damaged[path]
    store.sync()
    return done


def restore_from_copy(store: BlobStore, digest: str) -> bool:
    """Rewrite a piece of a list from its copy; whether that is intact."""
    if content := _read_verified(store, copy(digest), digest):
        store.write(piece(digest), content)
    return bool(content)


def _read_verified(store: BlobStore, path: str, digest: str) -> bytes:
    try:
        content = store.read(path, PIECE)
    except (Missing, Unreadable):
        return b""
    return content if store.digest(content) == digest else b""


def report(store: BlobStore, result: DamageReport) -> list[str]:
    """The damage in lines, by backup, run and artifact."""
    lines = []
    for name in result.names:
        count, first = result.affected.get(name, (0, []))
        if name in result.unrestorable:
            lines.append(f"{name}: cannot be restored: {result.unrestorable[name]}")
        elif count:
            lines.append(
                f"{name}: {counted(count, 'file')} damaged; `invoke restore {Snapshot(store, name)} --skip-damaged` "
                "restores the rest:"
            )
        lines += [f"    {line}" for line in first]
        if count > len(first):
            lines.append(f"    and {count - len(first)} more")
    lines += [f"{store}/{path} {wrong}" for path, wrong in sorted(result.damaged.items())[: 10 * NAMED]]
    lines += [f"{path}: an unknown file; Trackbed did not write it and does not read it" for path in result.unknown]
    if result.unused[0]:
        lines.append(
            f"{counted(result.unused[0], 'piece')} of no backup ({mib(result.unused[1])}): one that was "
            "interrupted or removed left them; the next one takes what it can use, `invoke backup.prune` frees the rest"
        )
    return lines
